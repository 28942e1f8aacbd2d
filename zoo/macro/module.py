"""The macro-action model as a Lightning module."""

from __future__ import annotations

from jepakit.zoo.latent_module import LatentModule, fitted
from jepakit.zoo.macro.config import MacroConfig
from jepakit.zoo.macro.model import MacroModel
from jepakit.zoo.module import OptimizerConfig

_SIZE = MacroConfig()
_OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_fraction=0.05)


class Macro(LatentModule):
    """A macro-action model (see ``MacroConfig`` and ``MacroModel``) on the latents of ``world_model``."""

    model: MacroModel

    def __init__(
        self,
        config: MacroConfig = _SIZE,
        optimizer: OptimizerConfig = _OPTIMIZER,
        world_model: str | None = None,
    ) -> None:
        config, frozen = fitted(config, world_model)
        super().__init__(MacroModel(config), optimizer, frozen)
