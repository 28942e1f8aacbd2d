"""A V-JEPA-style world model: an encoder from masked prediction, then an action-conditioned predictor on it, frozen.

Shape letters: B batch, T frames, H history frames, N patches of a frame, D latent width, A action-block width, S
candidates, K horizon in blocks. Symbols: z latent, a embedded action, ẑ predicted latent, m momentum.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel
from jepakit.zoo.config import parse_config
from jepakit.zoo.layers.frame_causal import FrameCausalPredictor
from jepakit.zoo.layers.imagine import imagine
from jepakit.zoo.layers.transformer import NONE, Cache
from jepakit.zoo.layers.vit import PatchEncoder
from jepakit.zoo.trainable import Losses
from jepakit.zoo.vjepa.config import VJEPAConfig
from jepakit.zoo.vjepa.masking import MaskPredictor, draw_masks


class VJEPAModel(WorldModel):
    """Two phases, told apart by the buffer ``encoder_done``, which ``step_done`` sets after ``encoder_steps``.

    First ``context_encoder`` and ``mask_predictor`` are trained and ``target_encoder`` follows the former as a moving
    average. Then the target encoder is what encodes, and ``predictor`` is trained on its latents.
    """

    name: ClassVar[str] = "vjepa"
    config: VJEPAConfig
    encoder_done: Tensor

    def __init__(self, config: VJEPAConfig | Mapping[str, Any]) -> None:
        config = parse_config(VJEPAConfig, config, where="config")
        super().__init__(config)
        width = config.vit_width
        self.context_encoder = PatchEncoder(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=width,
            depth=config.vit_depth,
            heads=config.vit_heads,
            mlp=config.vit_mlp,
        )
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)
        self.mask_predictor = MaskPredictor(
            width,
            frames=config.history + config.predictions,
            grid=config.image_size // config.patch_size,
            width=config.mask_predictor_width,
            depth=config.mask_predictor_depth,
            heads=config.mask_predictor_heads,
        )
        self.action_encoder = nn.Linear(config.block_width, width)
        self.predictor = FrameCausalPredictor(
            width,
            tokens=1 + config.tokens,
            history=config.history,
            width=config.predictor_width,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            head_dim=config.predictor_head_dim,
            mlp=config.predictor_mlp,
            dropout=config.dropout,
        )
        self.output_proj = nn.Linear(config.predictor_width, width)
        self.register_buffer("encoder_done", torch.tensor(False))

    # -- the contract -------------------------------------------------------------------------------------------
    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents z (B, T, N, D): the target encoder's patches of every frame, layer-normed; without gradient."""
        frames = self.normalise_frames(self.check_frames(observation))
        patches: Tensor = self.target_encoder(frames.flatten(0, 1))
        return _standardise(patches).reshape(*frames.shape[:2], *patches.shape[1:])

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """ẑ (B, H, N, D), the next latent at every position; see ``WorldModel.predict``."""
        self.check_history(latents)
        self.check_actions("actions", actions, tuple(latents.shape[:2]))
        return self.predict_next(_join(latents, self.embed_actions(actions)))

    def predict_next(self, x: Tensor, *, last_only: bool = False) -> Tensor:
        """ẑ (B, H, N, D), or (B, 1, N, D) of the last position only, from actions and latents (B, H, 1 + N, D)."""
        return self._read(self.predictor(x, last_only=last_only))

    def _read(self, predicted: Tensor) -> Tensor:
        """Latents (..., N, D) of the predictor's tokens (..., 1 + N, W)."""
        return _standardise(self.output_proj(predicted[..., 1:, :]))

    def embed_actions(self, actions: Tensor) -> Tensor:
        """Embeddings a (..., D) of raw action blocks (..., A)."""
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
        predicted, cache = self.predictor.extend(_join(z, a[0]), before, only=only)
        return self._read(predicted), cache

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Mean |ẑ − z_goal| (B, S), of predicted (B, S, N, D) and goal (B, N, D) latents (arXiv 2506.09985)."""
        self.check_goal(predicted, goal)
        return (predicted - goal.unsqueeze(1)).abs().mean(dim=(2, 3))

    # -- training -----------------------------------------------------------------------------------------------
    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Compute the loss of the phase the model is in; only the second phase has predictions among its outputs."""
        self.check_batch(batch)
        z = self.encode(batch)
        if self.encoder_done:
            return self.prediction_losses(z, batch["action"][:, :-1])
        return self.masked_losses(self.normalise_frames(batch["pixels"]), z, step)

    def masked_losses(self, frames: Tensor, z: Tensor, step: int) -> Losses:
        """Mean |P(context of visible patches, hidden positions) − z| over hidden patches (arXiv 2404.08471, section 3).

        Of frames (B, T, 3, h, w) and their targets z (B, T, N, D). The same patches of a window are hidden in all
        its frames.
        """
        windows, count = z.shape[:2]
        grid = self.config.image_size // self.config.patch_size
        masks = draw_masks(windows, grid, self.config.visible, seed=self.config.seed, step=step)
        visible, hidden = (indices.to(z.device) for indices in masks)
        context = self.context_encoder(frames.flatten(0, 1), visible.repeat_interleave(count, dim=0))
        predicted = self.mask_predictor(context.unflatten(0, (windows, count)), visible, hidden)
        target = z.gather(2, hidden[:, None, :, None].expand(-1, count, -1, z.shape[-1]))
        total = F.l1_loss(predicted, target)
        spread = z.std(dim=(0, 1), correction=0).mean()  # 0 where every picture has the same features
        return Losses(total=total, terms={"masked": total, "target_spread": spread}, outputs={"latents": z})

    def prediction_losses(self, z: Tensor, actions: Tensor) -> Losses:
        """Mean |ẑ_{t+1} − z_{t+1}| + mean |ẑ_R − z_R| (arXiv 2506.09985, section 3).

        Of latents z (B, T, N, D) and raw blocks (B, T-1, A). The first predicts every frame from real ones; the
        second frame R = ``rollout_steps`` (or the window's last) from the first by reading its own predictions.
        """
        a = self.embed_actions(actions)
        predicted = self.predict_next(_join(z[:, :-1], a))
        forced = F.l1_loss(predicted, z[:, 1:])
        imagined = torch.cat([z[:, :1], predicted[:, :1]], dim=1)  # the first step is the one just made
        last = min(self.config.rollout_steps, z.shape[1] - 1)
        for now in range(2, last + 1):
            following = self.predict_next(_join(imagined, a[:, :now]), last_only=True)
            imagined = torch.cat([imagined, following], dim=1)
        rolled = F.l1_loss(imagined[:, last], z[:, last])
        return Losses(
            total=forced + rolled,
            terms={"teacher_forcing": forced, "rollout": rolled},
            outputs={"latents": z, "predictions": predicted},
        )

    @property
    def encoder_alone(self) -> bool:
        """Until ``encoder_done``."""
        return not self.encoder_done

    @torch.no_grad()
    def step_done(self, step: int) -> None:
        """Let the target encoder follow, θ̄ ← m θ̄ + (1 − m) θ, and end the first phase, for good, after its steps."""
        if self.encoder_done:
            return
        done = min(1.0, step / self.config.encoder_steps)
        m = self.config.momentum + (1.0 - self.config.momentum) * done
        for target, source in zip(self.target_encoder.parameters(), self.context_encoder.parameters(), strict=True):
            target.lerp_(source, 1.0 - m)
        self.encoder_done.fill_(done == 1.0)


def _standardise(features: Tensor) -> Tensor:
    """Every token (..., D) to mean 0 and variance 1."""
    return F.layer_norm(features, features.shape[-1:])


def _join(z: Tensor, a: Tensor) -> Tensor:
    """Put a frame's action token a (..., T, D) before its patches z (..., T, N, D): (..., T, 1 + N, D)."""
    return torch.cat([a.unsqueeze(-2), z], dim=-2)
