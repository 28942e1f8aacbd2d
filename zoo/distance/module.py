"""The learned distance as a Lightning module."""

from __future__ import annotations

import torch
from torch import Tensor

from jepakit.zoo.distance.config import DistanceConfig
from jepakit.zoo.distance.model import DistanceModel
from jepakit.zoo.latent_module import LatentModule, fitted
from jepakit.zoo.module import OptimizerConfig

_SIZE = DistanceConfig()
_OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_fraction=0.05)


class Distance(LatentModule):
    """A learned distance (see ``DistanceModel``) on the latents of ``world_model``, which imagines some of them."""

    model: DistanceModel

    def __init__(
        self,
        config: DistanceConfig = _SIZE,
        optimizer: OptimizerConfig = _OPTIMIZER,
        world_model: str | None = None,
    ) -> None:
        config, frozen = fitted(config, world_model)
        super().__init__(DistanceModel(config), optimizer, frozen)

    def _check_data(self, spec: object) -> None:
        """As every distance or controller, and that the actions to imagine are whole blocks."""
        super()._check_data(spec)
        config, goals = self.model.config, getattr(self.trainer.datamodule, "goals", None)  # type: ignore[attr-defined]
        if config.imagined and goals is not None and goals.steps % config.frame_skip:
            raise ValueError(
                f"goals.steps: the data have {goals.steps} actions after a frame, expected whole blocks of the world "
                f"model's frame_skip, {config.frame_skip}; set goals.steps of the data to a multiple of that"
            )

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Imagine what the batch's actions lead to, from its first frames."""
        batch = super().prepare(batch)
        if not self.model.config.imagined:
            return batch
        world = self.placed()
        actions = batch["action"].to(world.action_mean.dtype)
        blocks = actions.reshape(len(actions), 1, -1, world.config.block_width)
        start = batch["features"][:, :1].to(actions.dtype)
        with torch.no_grad():
            imagined = world.rollout(start, blocks[:, 0, :0], blocks)[:, 0]
        return {**batch, "imagined": imagined}
