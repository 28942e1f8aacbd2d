"""The action-conditioned, causal predictor.

Shape letters: B batch, H history frames, D latent width, W inner width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import LAST, AdaLNBlock, Attention, FeedForward


class CausalPredictor(nn.Module):
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

    def forward(self, latents: Tensor, conditions: Tensor, *, last_only: bool = False) -> Tensor:
        """Latents and embedded actions (B, H, D) to (B, H, D), or to (B, 1, D) for the last position only."""
        x = self.input_proj(latents + self.positions[:, : latents.shape[1]])
        condition = self.condition_proj(conditions)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, condition, causal=True)
        x = last(x, condition, causal=True, only=LAST if last_only else None)
        out: Tensor = self.output_proj(self.norm(x))
        return out
