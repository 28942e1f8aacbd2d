"""PLDM as a Lightning module."""

from __future__ import annotations

from jepakit.zoo.module import OptimizerConfig, WorldModelModule
from jepakit.zoo.pldm.config import PLDMConfig
from jepakit.zoo.pldm.model import PLDMModel

_PAPER_SIZE = PLDMConfig()
_PAPER_OPTIMIZER = OptimizerConfig()


class PLDM(WorldModelModule):
    """PLDM (arXiv 2502.14819): see ``PLDMConfig`` for its sizes and ``PLDMModel`` for its equations."""

    def __init__(self, config: PLDMConfig = _PAPER_SIZE, optimizer: OptimizerConfig = _PAPER_OPTIMIZER) -> None:
        super().__init__(PLDMModel(config), optimizer)
