"""What every world model here is: a handful of verbs, and the data's statistics as buffers.

Shape letters: B batch, T frames, H history frames, N latent tokens per frame, D latent width, F frame skip,
A action-block width (F · C), C raw action width, P width of proprioception, S candidates, K horizon in blocks, h, w
picture size.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepakit.zoo.config import check_whole_numbers

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """What every model must know about its data; models add their own sizes.

    ``history`` is the longest context the model is trained with, in frames; frames are ``frame_skip`` environment
    steps apart, so that an action block holds ``frame_skip · action_dim`` numbers.
    """

    image_size: int = 224
    frame_skip: int = 5
    action_dim: int = 2
    history: int = 3

    def __post_init__(self) -> None:
        check_whole_numbers(self)

    @property
    def block_width(self) -> int:
        """A: the width of an action block."""
        return self.frame_skip * self.action_dim

    @property
    def predictions(self) -> int:
        """Frames of a training window after the history."""
        return 1

    @property
    def pretrain_steps(self) -> int:
        """Optimiser steps that train the encoder alone before the predictor is trained on it, frozen; 0 for none."""
        return 0


def neutral_statistics(config: WorldModelConfig) -> dict[str, Tensor]:
    """Return the buffers of a model that has seen no data: actions pass unchanged and have no bounds.

    A config with ``proprio_dim`` above 0 has statistics of proprioception, too.
    """
    proprio = getattr(config, "proprio_dim", 0)
    standard = {"proprio_mean": torch.zeros(proprio), "proprio_std": torch.ones(proprio)}
    return {
        "action_mean": torch.zeros(config.block_width),
        "action_std": torch.ones(config.block_width),
        "action_low": torch.full((config.action_dim,), -torch.inf),
        "action_high": torch.full((config.action_dim,), torch.inf),
        **(standard if proprio else {}),
    }


class Statistics(Protocol):
    """Statistics of the training episodes in raw action units, as a DataModule fits them (float32 arrays)."""

    @property
    def action_mean(self) -> NDArray[np.float32]:
        """(A,) mean of every column of an action block."""
        ...

    @property
    def action_std(self) -> NDArray[np.float32]:
        """(A,) standard deviation of every column of an action block."""
        ...

    @property
    def action_low(self) -> NDArray[np.float32]:
        """(C,) smallest action."""
        ...

    @property
    def action_high(self) -> NDArray[np.float32]:
        """(C,) largest action."""
        ...

    @property
    def proprio_mean(self) -> NDArray[np.float32] | None:
        """(P,) mean of proprioception, where the data have it."""
        ...

    @property
    def proprio_std(self) -> NDArray[np.float32] | None:
        """(P,) its standard deviation."""
        ...


@dataclasses.dataclass(frozen=True)
class Losses:
    """What ``losses`` returns: the scalar to minimise, its named terms, and tensors for callbacks."""

    total: Tensor
    terms: dict[str, Tensor]
    outputs: dict[str, Tensor]


class WorldModel(nn.Module):
    """Base of all world models: the contract, the buffers and the checks at the door.

    Actions are raw environment units everywhere; standardisation happens inside, with the buffers ``action_mean``,
    ``action_std`` (A,) and the bounds ``action_low``, ``action_high`` (C,), which travel with the weights. Until
    ``set_statistics`` is called, actions pass unchanged and are unbounded.
    """

    name: ClassVar[str]  # the registry's name of this family
    follows_objects: ClassVar[bool] = False  # latents depend on earlier frames: encode a history in one call
    config: WorldModelConfig

    action_mean: Tensor
    action_std: Tensor
    action_low: Tensor
    action_high: Tensor
    proprio_mean: Tensor  # these two only where the config has a proprio_dim above 0
    proprio_std: Tensor
    _pixel_scale: Tensor
    _pixel_offset: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        for field, value in neutral_statistics(config).items():
            self.register_buffer(field, value)
        mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
        self.register_buffer("_pixel_scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("_pixel_offset", -mean / std, persistent=False)

    # -- the contract -----------------------------------------------------------------------------------------
    @abstractmethod
    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents (B, T, N, D) of an observation with ``pixels`` (B, T, h, w, 3) uint8."""

    @abstractmethod
    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Next latents (B, H, N, D) at every position, from latents (B, H, N, D) and action blocks (B, H, A).

        The action at position k leaves frame k. H may be anything from 1 to ``config.history``; position k reads
        positions 0 … k only.
        """

    @abstractmethod
    def rollout(self, latents: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """Imagined latents (B, S, K, N, D) for candidate action blocks (B, S, K, A).

        Starts from real latents (B, H, N, D) and the blocks between them, ``past_actions`` (B, H-1, A).
        """

    @abstractmethod
    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Training losses of a batch of windows; random parts depend on ``config`` and ``step`` only."""

    @abstractmethod
    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Distance (B, S) of predicted latents (B, S, N, D) from the goal's latents (B, N, D)."""

    def step_done(self, step: int) -> None:
        """Called after each optimiser step with the number of steps done: moving averages, change of phase."""

    # -- statistics ---------------------------------------------------------------------------------------------
    def set_statistics(self, statistics: Statistics) -> None:
        """Copy the training data's statistics into the buffers.

        Raises ``ValueError`` for a wrong width, numbers that are not finite (bounds may be infinite), a standard
        deviation that is not positive, or bounds in the wrong order; the buffers are then unchanged.
        """
        new: dict[str, Tensor] = {}
        for field in neutral_statistics(self.config):
            buffer: Tensor = getattr(self, field)
            given = getattr(statistics, field)
            if given is None:
                raise ValueError(f"statistics.{field}: the data have none, the model's proprio_dim is {len(buffer)}")
            value = torch.as_tensor(np.asarray(given, dtype=np.float32))
            if value.shape != buffer.shape:
                raise ValueError(
                    f"statistics.{field}: found shape {tuple(value.shape)}, expected {tuple(buffer.shape)} from "
                    "frame_skip, action_dim and proprio_dim of the model's config; set these as the data has them"
                )
            bad = value.isnan() if field in ("action_low", "action_high") else ~value.isfinite()
            if field.endswith("_std"):
                bad = bad | (value <= 0)
            if bad.any():
                columns = bad.nonzero().flatten().tolist()
                raise ValueError(
                    f"statistics.{field}: found {value[bad].tolist()} in columns {columns}, expected finite"
                    f"{' and positive' if field.endswith('_std') else ''} numbers; drop constant or broken columns"
                )
            new[field] = value
        if (new["action_low"] > new["action_high"]).any():
            raise ValueError("statistics: action_low exceeds action_high; expected low <= high in every column")
        for field, value in new.items():
            getattr(self, field).copy_(value)

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """Raw action blocks (..., A) to zero mean and unit variance per column."""
        return (actions - self.action_mean) / self.action_std

    def normalise_proprio(self, proprio: Tensor) -> Tensor:
        """Raw proprioception (..., P) to zero mean and unit variance per column."""
        return (proprio - self.proprio_mean) / self.proprio_std

    def normalise_frames(self, pixels: Tensor) -> Tensor:
        """Frames (B, T, h, w, 3) uint8 to (B, T, 3, h, w) float, ``(pixels / 255 − mean) / std`` of ImageNet.

        The result keeps the frames' memory order (channels last): no transposed copy is made.
        """
        scaled = torch.addcmul(self._pixel_offset, pixels.to(self._pixel_scale.dtype), self._pixel_scale)
        return scaled.permute(0, 1, 4, 2, 3)

    # -- checks at the door ---------------------------------------------------------------------------------------
    def check_frames(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Return ``observation["pixels"]`` or raise ``ValueError`` saying what is wrong with it."""
        if "pixels" not in observation:
            raise ValueError(f"observation: found keys {sorted(observation)}, expected 'pixels'")
        pixels = observation["pixels"]
        size = self.config.image_size
        if pixels.ndim != 5 or tuple(pixels.shape[2:]) != (size, size, 3):
            raise ValueError(
                f"pixels: found shape {tuple(pixels.shape)}, expected (batch, frames, {size}, {size}, 3); "
                "render at the model's image_size, or set image_size in the model's config"
            )
        if pixels.dtype != torch.uint8:
            raise ValueError(
                f"pixels: found {pixels.dtype}, expected torch.uint8; scaling and mean/std happen inside the model"
            )
        return pixels

    def check_observation(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Return what stands for the frames (B, T, ...), here ``pixels``, or raise ``ValueError``."""
        return self.check_frames(observation)

    def check_batch(self, batch: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` unless ``batch`` holds windows of fitting length and their actions.

        That is 2 to ``history`` + 1 frames or, for models that predict several at once, ``predictions`` after a
        history of at least one.
        """
        frames = self.check_observation(batch).shape[:2]
        future = self.config.predictions
        shortest, longest = 1 + future, self.config.history + future
        if not shortest <= frames[1] <= longest:
            name = "features" if "features" in batch else "pixels"
            raise ValueError(
                f"{name}: found windows of {frames[1]} frames, expected {shortest} to {longest}: the trained "
                f"history and {future} to predict; set history in the model's config or the windows of the data"
            )
        if "action" not in batch:
            raise ValueError(f"batch: found keys {sorted(batch)}, expected 'action' beside 'pixels'")
        self.check_actions("action", batch["action"], tuple(frames))

    def check_actions(self, name: str, actions: Tensor, leading: tuple[int, ...]) -> None:
        """Raise ``ValueError`` unless ``actions`` has the shape ``(*leading, A)``."""
        expected = (*leading, self.config.block_width)
        if tuple(actions.shape) != expected:
            raise ValueError(
                f"{name}: found shape {tuple(actions.shape)}, expected {expected}: the last number is "
                f"frame_skip {self.config.frame_skip} × action_dim {self.config.action_dim}"
            )

    def check_proprio(self, observation: Mapping[str, Tensor], leading: tuple[int, ...]) -> Tensor:
        """Return ``observation["proprio"]``, shape ``(*leading, P)``, or raise ``ValueError``."""
        expected = (*leading, len(self.proprio_mean))
        found = tuple(observation["proprio"].shape) if "proprio" in observation else f"only {sorted(observation)}"
        if found != expected:
            raise ValueError(
                f"proprio: found {found}, expected {expected}; set proprio_dim in the model's config as the data have "
                "it, 0 to use frames only"
            )
        return observation["proprio"]

    def check_history(self, latents: Tensor) -> None:
        """Raise ``ValueError`` unless ``latents`` (B, H, N, D) has 1 to ``config.history`` frames."""
        if latents.ndim != 4 or not 1 <= latents.shape[1] <= self.config.history:
            raise ValueError(
                f"latents: found shape {tuple(latents.shape)}, expected (batch, frames, tokens, width) with 1 to "
                f"{self.config.history} frames, the trained history; pass the most recent frames only"
            )

    def check_goal(self, predicted: Tensor, goal: Tensor) -> None:
        """Raise ``ValueError`` unless ``goal`` (B, N, D) fits ``predicted`` (B, S, N, D)."""
        if predicted.ndim != 4 or goal.shape != (predicted.shape[0], *predicted.shape[2:]):
            raise ValueError(
                f"goal: found shape {tuple(goal.shape)} for predicted {tuple(predicted.shape)}, expected "
                "(batch, tokens, width) for (batch, candidates, tokens, width)"
            )

    def extra_repr(self) -> str:
        """Name the family in ``print(model)``."""
        return f"name={getattr(self, 'name', type(self).__name__)!r}"
