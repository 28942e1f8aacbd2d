"""What every world model here is: a handful of verbs.

Shape letters: B batch, T frames, H history frames, N latent tokens per frame, D latent width, F frame skip,
A action-block width (F · C), C raw action width, P width of proprioception, S candidates, K horizon in blocks, h, w
picture size.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from jepakit.zoo.trainable import DataConfig, Trainable

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldModelConfig(DataConfig):
    """What every model must know about its data; models add their own sizes.

    ``history`` is the longest context the model is trained with, in frames; frames are ``frame_skip`` environment
    steps apart.
    """

    image_size: int = 224
    history: int = 3

    @property
    def predictions(self) -> int:
        """Frames of a training window after the history."""
        return 1


class WorldModel(Trainable):
    """Base of all world models: the contract, and the checks at the door."""

    follows_objects: ClassVar[bool] = False  # latents depend on earlier frames: encode a history in one call
    config: WorldModelConfig

    _pixel_scale: Tensor
    _pixel_offset: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__(config)
        mean, std = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_STD)
        self.register_buffer("_pixel_scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("_pixel_offset", -mean / std, persistent=False)

    @property
    def latents_of(self) -> WorldModel:
        """The model whose latents these are: itself, unless it predicts those of another."""
        return self

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
    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Distance (B, S) of predicted latents (B, S, N, D) from the goal's latents (B, N, D)."""

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
