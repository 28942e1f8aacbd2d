"""World models with one latent vector per frame: encoder, projector, causal predictor; LeWM and PLDM add a loss.

Shape letters: B batch, T frames, H history frames, D latent width, A action-block width, S candidates, K horizon in
blocks, h, w picture size. Symbols: z latent, a embedded action, ẑ predicted latent. The contract's N is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel, WorldModelConfig
from jepakit.zoo.config import at_least, require_multiple
from jepakit.zoo.layers.cnn import CNNEncoder, total_stride
from jepakit.zoo.layers.heads import ActionEncoder, Projector
from jepakit.zoo.layers.imagine import imagine
from jepakit.zoo.layers.predictor import CausalPredictor, Predictor
from jepakit.zoo.layers.prefix import PrefixPredictor
from jepakit.zoo.layers.transformer import LAST, NONE, Cache
from jepakit.zoo.layers.vit import ViTEncoder

C = TypeVar("C", bound="VectorModelConfig")


@dataclass(frozen=True, kw_only=True)
class VectorModelConfig(WorldModelConfig):
    """The architecture of LeWM (arXiv 2603.19312), size ``tiny``; ``nano()`` is for 64-pixel frames on a CPU.

    ``encoder`` chooses between the ``vit_*`` and the ``cnn_*`` fields.

    ``prefix`` above 0 predicts so many frames in one call, from one frame and every prefix of the actions
    (``PrefixPredictor``), with ``prefix_depth`` layers to read these; the history is then 1.
    """

    encoder: Literal["vit", "cnn"] = "vit"
    patch_size: int = 14
    vit_width: int = 192
    vit_depth: int = 12
    vit_heads: int = 3
    vit_mlp: int = 768
    cnn_channels: tuple[int, ...] = (32, 64, 96)

    latent_dim: int = 192
    projector_hidden: int = 2048
    action_mixed: int = 10
    action_hidden: int = 768
    predictor_width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp: int = 2048
    dropout: float = 0.1
    prefix: int = at_least(0, default=0)
    prefix_depth: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 <= dropout < 1")
        if self.prefix and self.history != 1:
            raise ValueError(f"history: found {self.history} with prefix {self.prefix}, expected 1: it reads one frame")
        if self.encoder == "vit":
            require_multiple("image_size", self.image_size, "patch_size", self.patch_size)
            require_multiple("vit_width", self.vit_width, "vit_heads", self.vit_heads)
        else:
            if not self.cnn_channels or min(self.cnn_channels) < 1:
                raise ValueError(f"cnn_channels: found {list(self.cnn_channels)}, expected positive numbers")
            require_multiple("image_size", self.image_size, "cnn_channels' stride", total_stride(self.cnn_channels))

    @property
    def predictions(self) -> int:
        """Frames of a training window after the history."""
        return self.prefix or 1

    @classmethod
    def tiny(cls: type[C]) -> C:
        """Return the paper's size: ViT-Tiny on 224-pixel frames, 18.0 M parameters."""
        return cls()

    @classmethod
    def nano(cls: type[C]) -> C:
        """Return the size for 64-pixel frames that trains on a CPU in minutes: 1.3 M parameters."""
        return cls(
            image_size=64,
            encoder="cnn",
            latent_dim=64,
            projector_hidden=256,
            action_hidden=256,
            predictor_width=128,
            predictor_depth=3,
            predictor_heads=4,
            predictor_head_dim=32,
            predictor_mlp=256,
        )


class VectorModel(WorldModel):
    """Everything but the losses."""

    config: VectorModelConfig

    def __init__(self, config: VectorModelConfig) -> None:
        super().__init__(config)
        width = config.latent_dim
        self.encoder = _encoder(config)
        self.projector = Projector(self.encoder.width, config.projector_hidden, width)
        self.action_encoder = ActionEncoder(
            config.block_width, mixed=config.action_mixed, hidden=config.action_hidden, width_out=width
        )
        self.predictor: Predictor | PrefixPredictor = _predictor(config)
        self.prediction_projector: nn.Module = Projector(width, config.projector_hidden, width)

    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents (B, T, 1, D) of an observation with ``pixels`` (B, T, h, w, 3) uint8."""
        return self.encode_frames(self.normalise_frames(self.check_frames(observation))).unsqueeze(2)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Latents z (B, T, D) of frames (B, T, 3, h, w) that are normalised already."""
        features = self.encoder(frames.flatten(0, 1))
        z: Tensor = self.projector(features)
        return z.reshape(*frames.shape[:2], -1)

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """ẑ (B, H, 1, D), the next latent at every position; see ``WorldModel.predict``."""
        self.check_history(latents)
        self.check_actions("actions", actions, tuple(latents.shape[:2]))
        return self.predict_next(latents.squeeze(2), self.embed_actions(actions)).unsqueeze(2)

    def predict_window(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """ẑ and what it should be, each (B, any, D), for a training window of z (B, T, D) and a (B, T-1, D).

        Every position from all before it; with ``prefix``, every later frame from every frame, the first frame's
        predictions first.
        """
        if not self.config.prefix:
            return self.predict_next(z[:, :-1], a), z[:, 1:]
        last = z.shape[1] - 1
        parts = [self._predict_ahead(z[:, start], a[:, start:]) for start in range(last)]
        return torch.cat(parts, dim=1), torch.cat([z[:, start + 1 :] for start in range(last)], dim=1)

    def _predict_ahead(self, z: Tensor, a: Tensor) -> Tensor:
        """ẑ (B, K, D) after every prefix of embedded actions a (B, K, D) from z (B, D), K up to ``prefix``."""
        predicted: Tensor = self.prediction_projector(self.predictor(z, a))
        return predicted

    def predict_next(self, z: Tensor, a: Tensor, *, last_only: bool = False) -> Tensor:
        """ẑ (B, H, D), or (B, 1, D) of the last position only, from latents z and embedded actions a (B, H, D)."""
        if self.config.prefix:
            ahead = self._predict_ahead(z.flatten(0, 1), a.flatten(0, 1).unsqueeze(1))
            return ahead.reshape(z.shape)
        predicted: Tensor = self.prediction_projector(self.predictor(z, a, last_only=last_only))
        return predicted

    def embed_actions(self, actions: Tensor) -> Tensor:
        """Embeddings (..., D) of raw action blocks (..., A)."""
        embedded: Tensor = self.action_encoder(self.normalise_actions(actions))
        return embedded

    def rollout(self, latents: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """ẑ (B, S, K, 1, D) along candidate action blocks; see ``WorldModel.rollout``.

        The context grows with predicted latents up to ``config.history`` frames, then slides.
        """
        self.check_history(latents)
        batch, frames = latents.shape[:2]
        samples, horizon = candidates.shape[1:3]
        self.check_actions("past_actions", past_actions, (batch, frames - 1))
        self.check_actions("candidates", candidates, (batch, samples, horizon))
        if isinstance(self.predictor, PrefixPredictor):
            return self._leap(latents[:, -1, 0], self.embed_actions(candidates)).unsqueeze(3)
        past, following = (
            self.predictor.modulations(self.embed_actions(actions)) for actions in (past_actions, candidates)
        )
        return imagine(latents, past, following, history=self.config.history, extend=self._extend)

    def _leap(self, z: Tensor, a: Tensor) -> Tensor:
        """ẑ (B, S, K, D) from z (B, D) and embedded candidates a (B, S, K, D), ``prefix`` blocks at a time.

        Farther than it was trained for, it goes on from the last latent it has predicted.
        """
        now = z.unsqueeze(1).expand(-1, a.shape[1], -1).flatten(0, 1)
        parts = []
        for actions in torch.split(a.flatten(0, 1), self.config.prefix, dim=1):
            parts.append(self._predict_ahead(now, actions))
            now = parts[-1][:, -1]
        return torch.cat(parts, dim=1).reshape(a.shape)

    def _extend(self, z: Tensor, modulations: Sequence[Tensor], before: Cache, wanted: bool) -> tuple[Tensor, Cache]:
        """See ``jepakit.zoo.layers.imagine.Extend``."""
        assert isinstance(self.predictor, Predictor)
        predicted, cache = self.predictor.extend(z.squeeze(2), modulations, before, only=LAST if wanted else NONE)
        return self.prediction_projector(predicted).unsqueeze(2), cache

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """‖ẑ − z_goal‖² (B, S), of predicted (B, S, 1, D) and goal (B, 1, D) latents."""
        self.check_goal(predicted, goal)
        return (predicted - goal.unsqueeze(1)).square().sum(dim=(2, 3))


def _predictor(config: VectorModelConfig) -> Predictor | PrefixPredictor:
    sizes: dict[str, Any] = {
        "width": config.predictor_width,
        "depth": config.predictor_depth,
        "heads": config.predictor_heads,
        "head_dim": config.predictor_head_dim,
        "mlp": config.predictor_mlp,
        "dropout": config.dropout,
    }
    if config.prefix:
        return PrefixPredictor(config.latent_dim, horizon=config.prefix, prefix_depth=config.prefix_depth, **sizes)
    return CausalPredictor(config.latent_dim, history=config.history, **sizes)


def _encoder(config: VectorModelConfig) -> ViTEncoder | CNNEncoder:
    if config.encoder == "cnn":
        return CNNEncoder(image_size=config.image_size, channels=config.cnn_channels)
    return ViTEncoder(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.vit_width,
        depth=config.vit_depth,
        heads=config.vit_heads,
        mlp=config.vit_mlp,
    )
