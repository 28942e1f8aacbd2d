"""The controller as a Lightning module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepakit.zoo.base import WorldModel
from jepakit.zoo.controller.config import ControllerConfig
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.frozen_features import FrozenFeatures, ReadsFrozenFeatures
from jepakit.zoo.module import OptimizerConfig, TrainingModule
from jepakit.zoo.weights import load_model

_SIZE = ControllerConfig()
_OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_fraction=0.05)


class Controller(TrainingModule, ReadsFrozenFeatures):
    """A controller (see ``ControllerConfig`` and ``ControllerModel``) on the frozen latents of ``world_model``.

    That is a folder or Hub id; a checkpoint of the controller knows its fingerprint and needs it no more. Its data
    module serves goal pairs (``goals``) whose latents the callback ``FeatureCache`` has computed once.
    """

    model: ControllerModel

    def __init__(
        self,
        config: ControllerConfig = _SIZE,
        optimizer: OptimizerConfig = _OPTIMIZER,
        world_model: str | None = None,
    ) -> None:
        frozen = None if world_model is None else load_model(world_model).requires_grad_(False)
        model = ControllerModel(config if frozen is None else _fitted(config, frozen))
        super().__init__(model, optimizer)
        self._frozen = [frozen]  # in a list: neither saved nor trained with the controller

    @property
    def world_model(self) -> WorldModel:
        """The frozen world model; ``ValueError`` if there is none."""
        (frozen,) = self._frozen
        if frozen is None:
            raise ValueError("world_model: found nothing, expected the folder or Hub id of what the controller is for")
        return frozen

    def frozen_features(self, data: Any) -> FrozenFeatures:  # noqa: ANN401 (a data module)
        """Latents of single frames, see ``FeatureCache``."""
        frozen, config = self.world_model, self.model.config
        return FrozenFeatures(
            name=f"latents-{frozen.name}",
            network=frozen,
            shape=(config.tokens, config.latent_width),
            identity={"world_model": config.world_model},
            compute=lambda observation: self._encode(observation)[0],
            columns=self._columns(),
        )

    def _step(self, stage: str, batch: dict[str, Tensor], step: int) -> dict[str, Any]:
        """Compute the latents of batches that bring frames in their place."""
        if "features" not in batch and "pixels" in batch:
            self.world_model.to(self.device)
            with torch.no_grad():
                batch = {**batch, "features": self._encode({name: batch[name] for name in self._columns()})}
        return super()._step(stage, batch, step)

    def _columns(self) -> tuple[str, ...]:
        return ("pixels", "proprio") if getattr(self.world_model.config, "proprio_dim", 0) else ("pixels",)

    def _encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents (B, T, N, D) of frames (B, T, ...), each a history of its own."""
        leading = next(iter(observation.values())).shape[:2]
        alone = {name: value.flatten(0, 1).unsqueeze(1) for name, value in observation.items()}
        latents = self.world_model.encode(alone)
        return latents.reshape(*leading, *latents.shape[2:])


def _fitted(config: ControllerConfig, model: WorldModel) -> ControllerConfig:
    """``config`` with what it must know of the world model."""
    side = model.config.image_size
    frame = {"pixels": torch.zeros(1, 1, side, side, 3, dtype=torch.uint8)}
    if proprio := getattr(model.config, "proprio_dim", 0):
        frame["proprio"] = torch.zeros(1, 1, proprio)
    with torch.no_grad():
        tokens, width = model.encode(frame).shape[2:]
    known: dict[str, Any] = {
        "frame_skip": model.config.frame_skip,
        "action_dim": model.config.action_dim,
        "tokens": tokens,
        "latent_width": width,
        "ordered": not model.follows_objects,
        "world_model": fingerprint(model),
    }
    return dataclasses.replace(config, **known)
