"""LeWM as a Lightning module."""

from __future__ import annotations

from jepakit.zoo.lewm.config import LeWMConfig
from jepakit.zoo.lewm.model import LeWMModel
from jepakit.zoo.module import OptimizerConfig, WorldModelModule

_PAPER_SIZE = LeWMConfig()
_PAPER_OPTIMIZER = OptimizerConfig()


class LeWM(WorldModelModule):
    """LeWM (arXiv 2603.19312): see ``LeWMConfig`` for its sizes and ``LeWMModel`` for its equations.

    Both arguments may also be plain mappings, as a checkpoint stores them. The annotations do not say so, because
    jsonargparse 4.53 cannot merge configuration files into a union of a dataclass and a dict.
    """

    def __init__(self, config: LeWMConfig = _PAPER_SIZE, optimizer: OptimizerConfig = _PAPER_OPTIMIZER) -> None:
        super().__init__(LeWMModel(config), optimizer)
