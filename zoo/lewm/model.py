"""LeWM (arXiv 2603.19312): a latent world model trained end to end from pixels with two loss terms.

Shape letters: B batch, T frames, H history frames, D latent width, A action-block width, S candidates, K horizon in
blocks, h, w picture size. Symbols: z latent, a action, ẑ predicted latent, λ ``lambda_``. One latent token per frame:
the contract's N is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from jepakit.zoo.base import Losses, WorldModel
from jepakit.zoo.config import parse_config
from jepakit.zoo.layers.cnn import CNNEncoder
from jepakit.zoo.layers.heads import ActionEncoder, Projector
from jepakit.zoo.layers.predictor import CausalPredictor
from jepakit.zoo.layers.vit import ViTEncoder
from jepakit.zoo.lewm.config import LeWMConfig
from jepakit.zoo.losses.sigreg import random_directions, sigreg


class LeWMModel(WorldModel):
    """Encoder and predictor, trained together by prediction error and SIGReg."""

    name: ClassVar[str] = "lewm"
    config: LeWMConfig

    def __init__(self, config: LeWMConfig | Mapping[str, Any]) -> None:
        config = parse_config(LeWMConfig, config, where="config")
        super().__init__(config)
        width = config.latent_dim
        self.encoder = _encoder(config)
        self.projector = Projector(self.encoder.width, config.projector_hidden, width)
        self.action_encoder = ActionEncoder(
            config.block_width, mixed=config.action_mixed, hidden=config.action_hidden, width_out=width
        )
        self.predictor = CausalPredictor(
            width,
            history=config.history,
            width=config.predictor_width,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            head_dim=config.predictor_head_dim,
            mlp=config.predictor_mlp,
            dropout=config.dropout,
        )
        self.prediction_projector = Projector(width, config.projector_hidden, width)

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
        return self._predict(latents.squeeze(2), self.embed_actions(actions)).unsqueeze(2)

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
        past = self.embed_actions(past_actions).unsqueeze(1).expand(-1, samples, -1, -1)
        a = torch.cat([past, self.embed_actions(candidates)], dim=2).flatten(0, 1)
        z = latents.squeeze(2).unsqueeze(1).expand(-1, samples, -1, -1).flatten(0, 1)
        for now in range(frames, frames + horizon):
            context = slice(max(0, now - self.config.history), now)
            z = torch.cat([z, self._predict(z[:, context], a[:, context], last_only=True)], dim=1)
        return z[:, frames:].reshape(batch, samples, horizon, 1, -1)

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Compute the training objective on windows of 2 to ``history`` + 1 frames; see ``objective``."""
        self.check_batch(batch)
        z = self.encode(batch).squeeze(2)
        a = self.embed_actions(batch["action"][:, :-1])
        directions = random_directions(
            self.config.latent_dim, self.config.directions, seed=self.config.seed, step=step, device=z.device
        )
        return self.objective(z, a, directions)

    def objective(self, z: Tensor, a: Tensor, directions: Tensor) -> Losses:
        """Mean (ẑ_{t+1} − z_{t+1})² + λ · SIGReg(z), every position predicted from those up to it.

        Of latents z (B, T, D) and embedded actions a (B, T-1, D), with SIGReg's ``directions`` (D, P). Neither
        term stops gradients.
        """
        predicted = self._predict(z[:, :-1], a)
        prediction = F.mse_loss(predicted, z[:, 1:])
        regulariser = sigreg(z, directions, knots=self.config.knots, across_ranks=self.training)
        return Losses(
            total=prediction + self.config.lambda_ * regulariser,
            terms={"prediction": prediction, "sigreg": regulariser},
            outputs={"latents": z.unsqueeze(2), "predictions": predicted.unsqueeze(2)},
        )

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """‖ẑ − z_goal‖² (B, S), of predicted (B, S, 1, D) and goal (B, 1, D) latents."""
        self.check_goal(predicted, goal)
        return (predicted - goal.unsqueeze(1)).square().sum(dim=(2, 3))

    def _predict(self, z: Tensor, a: Tensor, *, last_only: bool = False) -> Tensor:
        predicted: Tensor = self.prediction_projector(self.predictor(z, a, last_only=last_only))
        return predicted


def _encoder(config: LeWMConfig) -> ViTEncoder | CNNEncoder:
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
