"""The action-conditioned, causal predictor.

Shape letters: B batch, H history frames, n new frames, D latent width, W inner width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import LAST, AdaLNBlock, Attention, Cache, FeedForward


class Predictor(nn.Module):
    """What predicts the latent of the next frame from latents and embedded actions, each position on its own terms."""

    def forward(self, latents: Tensor, conditions: Tensor, *, last_only: bool = False) -> Tensor:
        """Latents and embedded actions (B, H, D) to (B, H, D), or to (B, 1, D) for the last position only."""
        return self.extend(latents, self.modulations(conditions), [], only=LAST if last_only else None)[0]

    @abstractmethod
    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """Whatever of the prediction depends on embedded actions (..., D) alone, each (..., any width)."""

    @abstractmethod
    def extend(
        self, latents: Tensor, modulations: Sequence[Tensor], before: Cache, *, only: slice | None
    ) -> tuple[Tensor, Cache]:
        """Latents (B, n, D) and their modulations (B, n, ...), after the frames of ``before``, to (B, n, D).

        Also returns the cache of all. Only the positions ``only`` are predicted.
        """


class CausalPredictor(Predictor):
    """A causal transformer over frames in which actions modulate every block (AdaLN-zero).

    Positions are learned for ``history`` frames. Where the inner width differs from the latent's, linear maps lead
    in and out.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        history: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp: int,
        dropout: float,
    ) -> None:
        super().__init__()
        same = width == latent_dim
        self.positions = nn.Parameter(torch.randn(1, history, latent_dim))
        self.input_proj = nn.Identity() if same else nn.Linear(latent_dim, width)
        self.condition_proj = nn.Identity() if same else nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(
            AdaLNBlock(
                width,
                Attention(width, heads=heads, head_dim=head_dim, qkv_bias=False, dropout=dropout),
                FeedForward(width, mlp, dropout=dropout),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Identity() if same else nn.Linear(width, latent_dim)

    @property
    def _blocks(self) -> list[AdaLNBlock]:
        return cast("list[AdaLNBlock]", self.blocks)

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """See ``Predictor``: shifts, scales and gates of every block, each (..., 6 · W)."""
        condition = self.condition_proj(conditions)
        return [block.modulate(condition) for block in self._blocks]

    def extend(
        self, latents: Tensor, modulations: Sequence[Tensor], before: Cache, *, only: slice | None
    ) -> tuple[Tensor, Cache]:
        """See ``Predictor``; the last block computes the positions ``only``."""
        new, first = latents.shape[1], before[0][0].shape[1] if before else 0
        x = self.input_proj(latents + self.positions[:, first : first + new])
        cache = []
        last = len(self.blocks) - 1
        for index, (block, modulation) in enumerate(zip(self._blocks, modulations, strict=True)):
            x, seen = block.extend(
                x, modulation, before[index] if before else None, only=only if index == last else None
            )
            cache.append(seen)
        out: Tensor = self.output_proj(self.norm(x))
        return out, cache
