"""A second time scale on a frozen world model: macro-actions, and the latents to which they lead.

Shape letters: B batch, S candidates, K macro-actions, N latent tokens per frame, D latent width, G raw actions of a
macro-action, C raw action width, M macro-action width, H history frames. Symbols: z latents, a raw actions, m
macro-action, ẑ predicted latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel, WorldModelConfig
from jepakit.zoo.config import at_least, parse_config
from jepakit.zoo.latents import LatentModel, Standardise
from jepakit.zoo.layers.heads import hidden_layers
from jepakit.zoo.layers.transformer import block_stack
from jepakit.zoo.macro.config import MacroConfig
from jepakit.zoo.ranks import ranks, share
from jepakit.zoo.trainable import Losses, step_generator

_FARTHEST = 3.0  # macro-actions have unit variance; beyond that there are no data


class MacroModel(LatentModel):
    """m = E(a_t … a_{t+G-1}) and ẑ_{t+G} = z_t + P(z_t, m), after HWM (arXiv 2604.03208).

    Macro-actions are standardised over the training data, so a search can draw them from a normal distribution.
    """

    name: ClassVar[str] = "macro"
    config: MacroConfig

    def __init__(self, config: MacroConfig | Mapping[str, Any]) -> None:
        config = parse_config(MacroConfig, config, where="config")
        super().__init__(config)
        raw = config.steps * config.action_dim
        self.action_encoder = nn.Sequential(
            *hidden_layers(raw, config.width, 2), nn.Linear(config.width, config.macro_dim)
        )
        self.standardise = Standardise(config.macro_dim, affine=False)
        self.latent_token = nn.Linear(config.latent_width, config.width)
        self.macro_token = nn.Linear(config.macro_dim, config.width)
        places = 0.02 * torch.randn(config.tokens, config.width)
        self.positions = nn.Parameter(places) if config.ordered else None
        self.blocks = block_stack(config.width, config.depth, heads=config.heads, mlp=4 * config.width)
        self.norm = nn.LayerNorm(config.width)
        self.change = nn.Linear(config.width, config.latent_width)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def encode_actions(self, actions: Tensor) -> Tensor:
        """Macro-actions m (B, M) of raw actions (B, G, C)."""
        width = self.config.action_dim
        standard = (actions - self.action_mean[:width]) / self.action_std[:width]
        macros: Tensor = self.standardise(self.action_encoder(standard.flatten(1)))
        return macros

    def forward(self, latents: Tensor, macros: Tensor) -> Tensor:
        """ẑ (B, N, D) after a macro-action, from latents (B, N, D) and macro-actions (B, M)."""
        x = self.latent_token(latents)
        if self.positions is not None:
            x = x + self.positions
        x = torch.cat([x, self.macro_token(macros).unsqueeze(1)], dim=1)
        for block in self.blocks:
            x = block(x)
        ahead: Tensor = latents + self.change(self.norm(x[:, :-1]))
        return ahead

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Mean (ẑ_{t+G} − z_{t+G})²; the term ``still`` is that of predicting no change.

        Of a batch of goal pairs that are all G steps apart: latents ``features`` (B, 2, N, D), raw ``action``
        (B, G, C). Raises ``ValueError`` for others.
        """
        config = self.config
        self.check_goals(batch, {"action": (config.steps, config.action_dim)})
        if (batch["offset"] != config.steps).any():
            raise ValueError(
                f"offset: found {sorted(set(batch['offset'].tolist()))}, expected {config.steps}, as many as a "
                "macro-action has; set goals.min_offset and goals.max_offset to that"
            )
        start, end = batch["features"].to(self.action_mean.dtype).unbind(dim=1)
        macros = self.encode_actions(batch["action"])
        if self.training and config.noise:
            windows, *rest = macros.shape
            noise = torch.randn(windows * ranks()[1], *rest, generator=step_generator(config.seed, step))
            macros = macros + config.noise * share(noise).to(macros)
        predicted = self(start, macros)
        total = (predicted - end).square().mean()
        still = (start - end).square().mean().detach()
        return Losses(total=total, terms={"still": still}, outputs={"predictions": predicted})


@dataclass(frozen=True, kw_only=True)
class CoarseConfig(WorldModelConfig):
    """What a planner must know about a ``CoarseWorld``."""

    proprio_dim: int = at_least(0, default=0)


class CoarseWorld(WorldModel):
    """A world model whose actions are macro-actions: any solver plans with it, a frame and M numbers at a time.

    Made of a trained world model and a macro-action model on its latents; it is neither trained nor saved itself.
    Raises ``ValueError`` for a macro-action model of another world model.
    """

    name: ClassVar[str] = "coarse"

    def __init__(self, fine: WorldModel, macro: MacroModel) -> None:
        macro.check_world_model(fine)
        config = CoarseConfig(
            image_size=fine.config.image_size,
            history=1,
            frame_skip=1,
            action_dim=macro.config.macro_dim,
            proprio_dim=getattr(fine.config, "proprio_dim", 0),
        )
        super().__init__(config)
        self.fine = fine
        self.macro = macro
        self.action_low.fill_(-_FARTHEST)
        self.action_high.fill_(_FARTHEST)

    @property
    def latents_of(self) -> WorldModel:
        """The world model underneath."""
        return self.fine

    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """As the world model underneath does."""
        return self.fine.encode(observation)

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """ẑ (B, H, N, D) after a macro-action (B, H, M) at every position (B, H, N, D)."""
        predicted: Tensor = self.macro(latents.flatten(0, 1), actions.flatten(0, 1))
        return predicted.reshape(latents.shape)

    def rollout(self, latents: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """ẑ (B, S, K, N, D) along macro-actions (B, S, K, M), from latents (B, 1, N, D); the past says nothing."""
        self.check_history(latents)
        batch, samples, horizon = candidates.shape[:3]
        z = latents.expand(-1, samples, -1, -1).flatten(0, 1)
        imagined = []
        for macros in candidates.flatten(0, 1).unbind(dim=1):
            z = self.macro(z, macros)
            imagined.append(z)
        return torch.stack(imagined, dim=1).reshape(batch, samples, horizon, *z.shape[1:])

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """As the world model underneath judges."""
        return self.fine.goal_cost(predicted, goal)

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Raise ``TypeError``: its parts are trained on their own."""
        raise TypeError("CoarseWorld.losses: called, expected never; train the macro-action model (configs/macro.yaml)")
