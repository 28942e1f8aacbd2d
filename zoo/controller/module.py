"""The controller as a Lightning module."""

from __future__ import annotations

from jepakit.zoo.controller.config import ControllerConfig
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.latent_module import LatentModule, fitted
from jepakit.zoo.module import OptimizerConfig

_SIZE = ControllerConfig()
_OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_fraction=0.05)


class Controller(LatentModule):
    """A controller (see ``ControllerConfig`` and ``ControllerModel``) on the latents of ``world_model``."""

    model: ControllerModel

    def __init__(
        self,
        config: ControllerConfig = _SIZE,
        optimizer: OptimizerConfig = _OPTIMIZER,
        world_model: str | None = None,
    ) -> None:
        config, frozen = fitted(config, world_model)
        super().__init__(ControllerModel(config), optimizer, frozen)
