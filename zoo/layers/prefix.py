"""Prediction of all horizons at once from one frame: a summary of every prefix of the actions, then one map.

Shape letters: B batch, K horizon in blocks, D latent width, W inner width.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import block_stack


class PrefixPredictor(nn.Module):
    """ẑ_{t+k} = G(z_t, p_k), p_k read off a causal transformer over z_t, a_t … a_{t+k-1} (Fast-LeWM, arXiv 2606.26217).

    G is a stack of residual layers that p_k shifts, scales and gates; it begins as a map of z_t alone. Positions are
    learned for ``horizon`` actions.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        horizon: int,
        width: int,
        depth: int,
        prefix_depth: int,
        heads: int,
        head_dim: int,
        mlp: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.state_token = nn.Linear(latent_dim, width)
        self.action_token = nn.Linear(latent_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + horizon, width))
        self.prefix_blocks = block_stack(
            width, prefix_depth, heads=heads, head_dim=head_dim, mlp=mlp, qkv_bias=False, dropout=dropout
        )
        self.prefix_norm = nn.LayerNorm(width)
        self.state = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(ModulatedMLP(width, mlp, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, latent_dim)

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        """Latents z (B, D) and embedded actions a (B, K, D), K up to ``horizon``, to (B, K, D)."""
        tokens = torch.cat([self.state_token(z).unsqueeze(1), self.action_token(a)], dim=1)
        tokens = tokens + self.positions[:, : tokens.shape[1]]
        for block in self.prefix_blocks:
            tokens = block(tokens, causal=True)
        prefixes = F.silu(self.prefix_norm(tokens[:, 1:]))
        x = self.state(z).unsqueeze(1)
        for modulated in cast("list[ModulatedMLP]", self.blocks):
            x = modulated(x, prefixes)
        out: Tensor = self.output_proj(self.norm(x))
        return out


class ModulatedMLP(nn.Module):
    """x + gate · MLP(norm(x) · (1 + scale) + shift), all three from a condition; they start at zero."""

    def __init__(self, width: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Vectors (B, 1 or K, W) under conditions (B, K, W), to (B, K, W)."""
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        hidden = self.dropout(F.gelu(self.expand(self.norm(x) * (1 + scale) + shift)))
        out: Tensor = x + gate * self.dropout(self.contract(hidden))
        return out
