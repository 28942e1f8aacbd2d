"""DINO-WM (arXiv 2411.04983): a world model on the patch tokens of a frozen encoder.

Shape letters: B batch, T frames, H history frames, N tokens per frame, E token width, D latent width (E and the
embedded proprioception), A action-block width, S candidates, K horizon in blocks, P proprio width. Symbols: z latent,
a embedded action, ẑ predicted latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.config import parse_config
from jepakit.zoo.dinowm.config import DINOWMConfig
from jepakit.zoo.frozen import FrozenEncoderModel
from jepakit.zoo.layers.frame_causal import FrameCausalPredictor
from jepakit.zoo.layers.imagine import imagine
from jepakit.zoo.layers.transformer import NONE, Cache
from jepakit.zoo.trainable import Losses


class DINOWMModel(FrozenEncoderModel):
    """Predicts the tokens of the next frame; only the predictor and the small embeddings are trained."""

    name: ClassVar[str] = "dinowm"
    config: DINOWMConfig

    def __init__(self, config: DINOWMConfig | Mapping[str, Any]) -> None:
        config = parse_config(DINOWMConfig, config, where="config")
        super().__init__(config)
        width_in = config.latent_dim + config.action_embedding
        width = config.predictor_width or width_in
        self.action_encoder = nn.Linear(config.block_width, config.action_embedding)
        if config.proprio_dim:
            self.proprio_encoder = nn.Linear(config.proprio_dim, config.proprio_embedding)
        self.predictor = FrameCausalPredictor(
            width_in,
            tokens=config.tokens,
            history=config.history,
            width=width,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            head_dim=config.predictor_head_dim,
            mlp=config.predictor_mlp,
            dropout=config.dropout,
        )
        self.output_proj = nn.Identity() if width == width_in else nn.Linear(width, width_in)

    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents z (B, T, N, D): tokens and, where the config has it, embedded ``proprio`` (B, T, P) on each."""
        tokens = self.features(observation)
        if not self.config.proprio_dim:
            return tokens
        proprio = self.check_proprio(observation, tuple(tokens.shape[:2]))
        return _tile(tokens, self.proprio_encoder(self.normalise_proprio(proprio)))

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """ẑ (B, H, N, D), the next latent at every position; see ``WorldModel.predict``."""
        self.check_history(latents)
        self.check_actions("actions", actions, tuple(latents.shape[:2]))
        return self.predict_next(_tile(latents, self.embed_actions(actions)))

    def predict_next(self, x: Tensor, *, last_only: bool = False) -> Tensor:
        """ẑ (B, H, N, D), or (B, 1, N, D) of the last position only, from latents with actions on every token."""
        return self._read(self.predictor(x, last_only=last_only))

    def _read(self, predicted: Tensor) -> Tensor:
        """Latents (..., D) of the predictor's tokens (..., W)."""
        projected: Tensor = self.output_proj(predicted)
        return projected[..., : self.config.latent_dim]

    def embed_actions(self, actions: Tensor) -> Tensor:
        """Embeddings a of raw action blocks (..., A)."""
        embedded: Tensor = self.action_encoder(self.normalise_actions(actions))
        return embedded

    def rollout(self, latents: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """ẑ (B, S, K, N, D) along candidate action blocks; see ``WorldModel.rollout``."""
        self.check_history(latents)
        batch, frames = latents.shape[:2]
        samples, horizon = candidates.shape[1:3]
        self.check_actions("past_actions", past_actions, (batch, frames - 1))
        self.check_actions("candidates", candidates, (batch, samples, horizon))
        past, following = ([self.embed_actions(actions)] for actions in (past_actions, candidates))
        return imagine(latents, past, following, history=self.config.history, extend=self._extend)

    def _extend(self, z: Tensor, a: Sequence[Tensor], before: Cache, wanted: bool) -> tuple[Tensor, Cache]:
        """See ``jepakit.zoo.layers.imagine.Extend``."""
        only = slice(-self.predictor.tokens, None) if wanted else NONE
        predicted, cache = self.predictor.extend(_tile(z, a[0]), before, only=only)
        return self._read(predicted), cache

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Mean (ẑ_{t+1} − sg(z_{t+1}))² over tokens and the visual and proprio dimensions, at every position.

        sg stops gradients: the embedding of proprioception is trained as an input only.
        """
        self.check_batch(batch)
        z = self.encode(batch)
        predicted = self.predict(z[:, :-1], batch["action"][:, :-1])
        target = z[:, 1:].detach()
        total = F.mse_loss(predicted, target)
        terms = {"prediction": total}
        if self.config.proprio_dim:
            visual = self.config.token_width
            terms["visual"] = F.mse_loss(predicted[..., :visual], target[..., :visual])
            terms["proprio"] = F.mse_loss(predicted[..., visual:], target[..., visual:])
        return Losses(total=total, terms=terms, outputs={"latents": z, "predictions": predicted})

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Visual + α · proprio squared error (B, S), each a mean over tokens and its dimensions.

        Of predicted (B, S, N, D) and goal (B, N, D) latents.
        """
        self.check_goal(predicted, goal)
        error = (predicted - goal.unsqueeze(1)).square()
        visual = self.config.token_width
        cost = error[..., :visual].mean(dim=(2, 3))
        if self.config.proprio_dim:
            cost = cost + self.config.alpha * error[..., visual:].mean(dim=(2, 3))
        return cost


def _tile(tokens: Tensor, embedded: Tensor) -> Tensor:
    """Put an embedding (..., T, W) behind every token (..., T, N, D) of its frame: (..., T, N, D + W)."""
    tiled = embedded.unsqueeze(-2).expand(*tokens.shape[:-1], embedded.shape[-1])
    return torch.cat([tokens, tiled], dim=-1)
