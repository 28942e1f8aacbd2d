"""Small heads around the transformers: projectors, the action encoder, inverse dynamics.

Shape letters: B batch, T frames, A action-block width, D latent width.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.layers.norms import BatchNorm1d


class Projector(nn.Module):
    """Linear, batch norm, GELU, Linear.

    The batch norm runs over all leading axes together. Behind a final layer norm it is what lets a regulariser
    change the spread of the latents at all (arXiv 2603.19312, section 3).
    """

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width_in, hidden)
        self.norm = BatchNorm1d(hidden)
        self.contract = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (..., width_in) to (..., width_out)."""
        hidden = F.gelu(self.norm(self.expand(x.flatten(0, -2))))
        out: Tensor = self.contract(hidden).unflatten(0, x.shape[:-1])
        return out


def hidden_layers(width_in: int, width: int, depth: int, *, dropout: float = 0.0) -> nn.Sequential:
    """``depth`` times Linear, layer norm, GELU, dropout: vectors (B, width_in) to (B, width)."""
    widths = [width_in, *[width] * depth]
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(dropout))
            for before, after in itertools.pairwise(widths)
        )
    )


class ActionEncoder(nn.Module):
    """A linear mix of the block's columns, then Linear, SiLU, Linear: one vector per action block."""

    def __init__(self, block_width: int, *, mixed: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.mix = nn.Linear(block_width, mixed)
        self.expand = nn.Linear(mixed, hidden)
        self.contract = nn.Linear(hidden, width_out)

    def forward(self, actions: Tensor) -> Tensor:
        """Standardised blocks (B, T, A) to (B, T, D)."""
        out: Tensor = self.contract(F.silu(self.expand(self.mix(actions))))
        return out


class InverseDynamics(nn.Module):
    """Linear, ReLU, Linear: which action leads from one latent to the next (arXiv 2502.14819)."""

    def __init__(self, latent_dim: int, *, hidden: int, width_out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(2 * latent_dim, hidden)
        self.contract = nn.Linear(hidden, width_out)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Latents (B, T, D) and the ones that follow them to standardised action blocks (B, T, A)."""
        out: Tensor = self.contract(F.relu(self.expand(torch.cat([after, before], dim=-1))))
        return out
