"""Data: episode stores, collection, windows and the LightningDataModules that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepakit.datamodules.base import EpisodeDataModule, Generate
    from jepakit.datamodules.collisions import Collisions
    from jepakit.datamodules.cube import Cube
    from jepakit.datamodules.gravity import Gravity
    from jepakit.datamodules.mixture import Mixture, MixturePart
    from jepakit.datamodules.pusht import PushT
    from jepakit.datamodules.reacher import Reacher
    from jepakit.datamodules.tworoom import TwoRoom

_EXPORTS = {
    "Collisions": "jepakit.datamodules.collisions",
    "Cube": "jepakit.datamodules.cube",
    "EpisodeDataModule": "jepakit.datamodules.base",
    "Generate": "jepakit.datamodules.base",
    "Gravity": "jepakit.datamodules.gravity",
    "Mixture": "jepakit.datamodules.mixture",
    "MixturePart": "jepakit.datamodules.mixture",
    "PushT": "jepakit.datamodules.pusht",
    "Reacher": "jepakit.datamodules.reacher",
    "TwoRoom": "jepakit.datamodules.tworoom",
}
__all__ = [
    "Collisions",
    "Cube",
    "EpisodeDataModule",
    "Generate",
    "Gravity",
    "Mixture",
    "MixturePart",
    "PushT",
    "Reacher",
    "TwoRoom",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (module attribute)
    """Import an exported class on first use, so that importing this package costs nothing."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
