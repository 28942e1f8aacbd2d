"""Small heads around the transformers: projectors and the action encoder.

Shape letters: B batch, T frames, A action-block width, D output width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Linear, batch norm, GELU, Linear.

    The batch norm runs over all leading axes together. Behind a final layer norm it is what lets a regulariser
    change the spread of the latents at all (arXiv 2603.19312, section 3).
    """

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width_in, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.contract = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (..., width_in) to (..., width_out)."""
        hidden = F.gelu(self.norm(self.expand(x.flatten(0, -2))))
        out: Tensor = self.contract(hidden).unflatten(0, x.shape[:-1])
        return out


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
