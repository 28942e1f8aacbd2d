"""How many environment steps from here to there, learned from how long demonstrations took.

Shape letters: B batch, S candidates, K blocks, N latent tokens per frame, D latent width, F frame skip. Symbols: z
latents, g those of the goal, h offset in environment steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.config import parse_config
from jepakit.zoo.distance.config import DistanceConfig
from jepakit.zoo.latents import LatentModel, pair_reader
from jepakit.zoo.layers.heads import hidden_layers
from jepakit.zoo.trainable import Losses


class DistanceModel(LatentModel):
    """d(z, g) ≥ 0, the temporal distance of two frames (after TRM, arXiv 2605.22164), in environment steps.

    The network's output is in units of ``max_offset``; a softplus keeps it from being negative.
    """

    name: ClassVar[str] = "distance"
    config: DistanceConfig

    def __init__(self, config: DistanceConfig | Mapping[str, Any]) -> None:
        config = parse_config(DistanceConfig, config, where="config")
        super().__init__(config)
        self.reader = pair_reader(config)
        hidden = hidden_layers(self.reader.features, config.width, config.depth)
        self.body = nn.Sequential(*hidden, nn.Linear(config.width, 1))

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Environment steps (B,) from latents to a goal, each (B, N, D)."""
        steps: Tensor = self.config.max_offset * F.softplus(self.body(self.reader(latents, goal)).squeeze(1))
        return steps

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Environment steps (B, S) from predicted latents (B, S, N, D) to the goal (B, N, D)."""
        goals = goal.unsqueeze(1).expand_as(predicted)
        steps: Tensor = self(predicted.flatten(0, 1), goals.flatten(0, 1))
        return steps.reshape(predicted.shape[:2])

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Mean |d(z_t, z_{t+h}) − h| / max_offset, and the same of imagined ẑ_{t+kF}, which are kF steps nearer.

        Of a batch of goal pairs with latents ``features`` (B, 2, N, D) and ``offset`` (B,); ``imagined`` (B, K, N, D)
        are optional.
        """
        self.check_goals(batch, {})
        features, offset = batch["features"].to(self.action_mean.dtype), batch["offset"].to(self.action_mean.dtype)
        goal, scale = features[:, 1], self.config.max_offset
        real = (self(features[:, 0], goal) - offset).abs().mean() / scale
        total, terms = real, {"real": real}
        if "imagined" in batch and self.config.imagined:
            predicted = batch["imagined"].to(features.dtype)
            steps = self.config.frame_skip * torch.arange(1, 1 + predicted.shape[1], device=offset.device)
            left = offset.unsqueeze(1) - steps
            before = (left >= 0).to(left.dtype)  # what is beyond the goal moves away again, nobody knows how far
            errors = (self.goal_cost(predicted, goal) - left).abs() * before
            terms["imagined"] = errors.sum() / self.mean_count(before.sum()).clamp(min=1) / scale
            total = total + self.config.imagined * terms["imagined"]
        return Losses(total=total, terms=terms, outputs={})
