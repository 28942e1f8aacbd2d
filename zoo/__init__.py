"""The world models: pure modules, their losses, one Lightning module, loading and saving. Imports nothing heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jepakit.zoo.base import Losses, Statistics, WorldModel, WorldModelConfig
    from jepakit.zoo.lewm.config import LeWMConfig
    from jepakit.zoo.lewm.model import LeWMModel
    from jepakit.zoo.module import LeWM, OptimizerConfig, WorldModelModule
    from jepakit.zoo.weights import from_pretrained, load_model, save_pretrained

_HOMES = {
    "LeWM": "jepakit.zoo.module",
    "LeWMConfig": "jepakit.zoo.lewm.config",
    "LeWMModel": "jepakit.zoo.lewm.model",
    "Losses": "jepakit.zoo.base",
    "OptimizerConfig": "jepakit.zoo.module",
    "Statistics": "jepakit.zoo.base",
    "WorldModel": "jepakit.zoo.base",
    "WorldModelConfig": "jepakit.zoo.base",
    "WorldModelModule": "jepakit.zoo.module",
    "from_pretrained": "jepakit.zoo.weights",
    "load_model": "jepakit.zoo.weights",
    "save_pretrained": "jepakit.zoo.weights",
}

__all__ = [
    "LeWM",
    "LeWMConfig",
    "LeWMModel",
    "Losses",
    "OptimizerConfig",
    "Statistics",
    "WorldModel",
    "WorldModelConfig",
    "WorldModelModule",
    "from_pretrained",
    "load_model",
    "save_pretrained",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
