"""What can be trained and saved, by name: where each one's classes live, imported when asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jepakit.zoo.module import TrainingModule
    from jepakit.zoo.trainable import DataConfig, Trainable


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The classes of one family, each as "module:Class"."""

    model: str
    config: str
    module: str

    def model_class(self) -> type[Trainable]:
        """Import the pure torch model."""
        found: type[Trainable] = _load(self.model)
        return found

    def config_class(self) -> type[DataConfig]:
        """Import its config dataclass."""
        found: type[DataConfig] = _load(self.config)
        return found

    def module_class(self) -> type[TrainingModule]:
        """Import its Lightning class."""
        found: type[TrainingModule] = _load(self.module)
        return found


def _family(folder: str, name: str) -> Entry:
    home = f"jepakit.zoo.{folder}"
    return Entry(
        model=f"{home}.model:{name}Model", config=f"{home}.config:{name}Config", module=f"{home}.module:{name}"
    )


REGISTRY: dict[str, Entry] = {
    "cjepa": _family("cjepa", "CJEPA"),
    "controller": _family("controller", "Controller"),
    "distance": _family("distance", "Distance"),
    "dinowm": _family("dinowm", "DINOWM"),
    "lewm": _family("lewm", "LeWM"),
    "macro": _family("macro", "Macro"),
    "pldm": _family("pldm", "PLDM"),
    "vjepa": _family("vjepa", "VJEPA"),
}


def lookup(name: str) -> Entry:
    """Return the registry's entry of a model family; raises ``ValueError`` listing the known names."""
    known = sorted(REGISTRY)
    if name not in known:
        raise ValueError(f"model: found {name!r}, expected one of {known}")
    return REGISTRY[name]


def _load(path: str) -> type:
    module, _, attribute = path.partition(":")
    loaded: type = getattr(importlib.import_module(module), attribute)
    return loaded
