"""A controller on a frozen world model: from where it is, where it should be and how far that is, to actions.

Shape letters: B batch, N latent tokens per frame, D latent width, M modes, G raw actions at once, C raw action width,
K = G / F blocks, A action-block width, W width. Symbols: z latents of the frame, g of the goal, h offset in environment
steps, a standardised actions, π weights of modes, σ their common deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.config import parse_config
from jepakit.zoo.controller.config import ControllerConfig
from jepakit.zoo.latents import LatentModel, pair_reader
from jepakit.zoo.layers.heads import hidden_layers
from jepakit.zoo.trainable import Losses

_SLOWEST = 1000.0  # longest wave of the offset's encoding, in environment steps, over 2π


class ControllerModel(LatentModel):
    """Goal-conditioned behaviour cloning on latents, after GC-IDM (arXiv 2605.08732), with several modes.

    A mixture of ``modes`` Gaussians over the next G actions, whose common deviation is learned: with one mode, the
    mean that minimises the squared error.
    """

    name: ClassVar[str] = "controller"
    config: ControllerConfig

    def __init__(self, config: ControllerConfig | Mapping[str, Any]) -> None:
        config = parse_config(ControllerConfig, config, where="config")
        super().__init__(config)
        self.reader = pair_reader(config)
        self.body = hidden_layers(self.reader.features, config.width, config.depth, dropout=config.dropout)
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.modulation = nn.Linear(config.offset_features, 2 * config.width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.actions = nn.Linear(config.width, config.modes * config.steps * config.action_dim)
        self.weights = nn.Linear(config.width, config.modes)
        self.log_sigma = nn.Parameter(torch.zeros(1))  # FSDP2 shares no parameters without dimensions

    def forward(self, latents: Tensor, goal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised actions (B, M, G, C) and log π (B, M) of latents and goal (B, N, D) and offsets (B,)."""
        x = self.body(self.reader(latents, goal))
        shift, scale = self.modulation(self._encode(offset)).chunk(2, dim=-1)
        x = self.norm(x) * (1 + scale) + shift
        shape = (-1, self.config.modes, self.config.steps, self.config.action_dim)
        return self.actions(x).reshape(shape), F.log_softmax(self.weights(x), dim=-1)

    def propose(self, latents: Tensor, goal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Raw blocks (B, M, K, A) within the action bounds and log π (B, M); arguments as in ``forward``."""
        actions, log_weights = self(latents, goal, offset)
        mean, std = self._per_action()
        raw = torch.minimum(torch.maximum(actions * std + mean, self.action_low), self.action_high)
        return raw.reshape(*raw.shape[:2], -1, self.config.block_width), log_weights

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """−log Σ_m π_m N(a; a_m, σ²) per number of a, over the actions before the goal.

        Of a batch of goal pairs: latents ``features`` (B, 2, N, D), raw ``action`` (B, G, C), ``offset`` (B,).
        """
        self.check_goals(batch, {"action": (self.config.steps, self.config.action_dim)})
        features, offset = batch["features"].to(self.action_mean.dtype), batch["offset"]
        found, log_weights = self(features[:, 0], features[:, 1], offset)
        mean, std = self._per_action()
        wanted = ((batch["action"] - mean) / std).unsqueeze(1)
        before = (torch.arange(self.config.steps, device=offset.device) < offset.unsqueeze(1)).to(found.dtype)
        errors = ((found - wanted).square().sum(dim=3) * before.unsqueeze(1)).sum(dim=2)  # (B, M)
        counts = self.config.action_dim * before.sum(dim=1)
        log_density = -0.5 * errors * torch.exp(-2 * self.log_sigma) - counts.unsqueeze(1) * self.log_sigma
        count = self.mean_count(counts.sum())
        total = -torch.logsumexp(log_weights + log_density, dim=1).sum() / count
        chosen = errors.gather(1, log_weights.argmax(dim=1, keepdim=True)).sum() / count
        nearest = errors.amin(dim=1).sum() / count
        return Losses(total=total, terms={"likeliest_mse": chosen, "nearest_mse": nearest}, outputs={})

    def _per_action(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,) of one raw action; those of a block repeat them."""
        return self.action_mean[: self.config.action_dim], self.action_std[: self.config.action_dim]

    def _encode(self, offset: Tensor) -> Tensor:
        """Sines and cosines (B, offset_features) of offsets (B,)."""
        waves = torch.arange(self.config.offset_features // 2, device=offset.device)
        frequency = torch.exp(-math.log(_SLOWEST) * waves / len(waves))
        angle = offset.unsqueeze(1).to(frequency.dtype) * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)
