"""VJEPA as a Lightning module."""

from __future__ import annotations

from jepakit.zoo.module import OptimizerConfig, WorldModelModule
from jepakit.zoo.vjepa.config import VJEPAConfig
from jepakit.zoo.vjepa.model import VJEPAModel

_DEFAULT_SIZE = VJEPAConfig()
_DEFAULT_OPTIMIZER = OptimizerConfig(lr=5e-4, weight_decay=0.04, warmup_fraction=0.1)


class VJEPA(WorldModelModule):
    """A V-JEPA-style baseline: see ``VJEPAConfig`` for its sizes and ``VJEPAModel`` for its equations and phases."""

    def __init__(self, config: VJEPAConfig = _DEFAULT_SIZE, optimizer: OptimizerConfig = _DEFAULT_OPTIMIZER) -> None:
        super().__init__(VJEPAModel(config), optimizer)
