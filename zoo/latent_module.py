"""The Lightning base of what is trained on the latents of a frozen world model.

Shape letters: B batch, T frames, N latent tokens per frame, D latent width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from jepakit.zoo.base import WorldModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.frozen_features import FrozenFeatures, ReadsFrozenFeatures
from jepakit.zoo.latents import LatentConfig, LatentModel, PairConfig
from jepakit.zoo.module import OptimizerConfig, TrainingModule
from jepakit.zoo.weights import load_model

C = TypeVar("C", bound=LatentConfig)


class LatentModule(TrainingModule, ReadsFrozenFeatures):
    """Trains a ``LatentModel`` on the frozen latents of a world model.

    That is a folder or Hub id; a checkpoint knows its fingerprint and needs it no more. The data module serves goal
    pairs (``goals``), whose latents the callback ``FeatureCache`` can compute once.
    """

    model: LatentModel

    def __init__(self, model: LatentModel, optimizer: OptimizerConfig, frozen: WorldModel | None) -> None:
        super().__init__(model, optimizer)
        self._frozen = [frozen]  # in a list: neither saved nor trained with the rest

    @property
    def world_model(self) -> WorldModel:
        """The frozen world model; ``ValueError`` if there is none."""
        (frozen,) = self._frozen
        if frozen is None:
            raise ValueError(
                "world_model: found nothing, expected the folder or Hub id of the model whose latents it is trained on"
            )
        return frozen

    def placed(self) -> WorldModel:
        """The frozen world model, on this module's device."""
        world = self.world_model
        return world if world.action_mean.device == self.device else world.to(self.device)

    def _check_data(self, spec: object) -> None:
        """As every module, and that goals are as far away in the data as the model says it knows."""
        super()._check_data(spec)
        config, goals = self.model.config, getattr(self.trainer.datamodule, "goals", None)  # type: ignore[attr-defined]
        if isinstance(config, PairConfig) and goals is not None and goals.max_offset != config.max_offset:
            raise ValueError(
                f"max_offset: the data's goals are up to {goals.max_offset} steps away, the model expects "
                f"{config.max_offset}; give goals.max_offset of the data and config.max_offset of the model one number"
            )

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

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the latents of a batch that brings frames in their place."""
        if "features" in batch or "pixels" not in batch:
            return batch
        self.placed()
        with torch.no_grad():
            return {**batch, "features": self._encode({name: batch[name] for name in self._columns()})}

    def _step(self, stage: str, batch: dict[str, Tensor], step: int) -> dict[str, Any]:
        return super()._step(stage, self.prepare(batch), step)

    def _columns(self) -> tuple[str, ...]:
        return ("pixels", "proprio") if getattr(self.world_model.config, "proprio_dim", 0) else ("pixels",)

    def _encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents (B, T, N, D) of frames (B, T, ...), each a history of its own, in the world model's precision."""
        leading = next(iter(observation.values())).shape[:2]
        world = self.world_model
        alone = {name: value.flatten(0, 1).unsqueeze(1) for name, value in observation.items()}
        if "proprio" in alone:
            alone["proprio"] = alone["proprio"].to(world.action_mean.dtype)
        latents = world.encode(alone)
        return latents.reshape(*leading, *latents.shape[2:])


def fitted(config: C, world_model: str | Path | None) -> tuple[C, WorldModel | None]:
    """``config`` with what it must know of the world model in a folder or on the Hub, and that model, frozen."""
    if world_model is None:
        return config, None
    model = load_model(world_model).requires_grad_(False)
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
    return dataclasses.replace(config, **known), model
