"""The masked, bidirectional transformer over slots (arXiv 2602.11389).

Shape letters: B batch, H history frames, R future frames, T = H + R, N slots, C conditions of a frame (proprioception
where there is any, action), M = N + C tokens of a frame, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import Block, block_stack


class SlotPredictor(nn.Module):
    """Fills in hidden slots and future frames from what is visible, all at once.

    Tokens of frame t: visible ones are z + time_t; hidden ones, and all of future frames, are queries
    mask + time_t + W z_0, where z_0, the token in the first frame, is a query's only identity: slots have no index, so
    that permuting them permutes what comes out.

    Times are counted from the end of the history: a history shorter than the trained one lacks its first frames, and
    the first future frame has the same time whatever the history's length.

    The last tokens of a frame are its conditions. With ``conditioning`` "concatenated" they are joined to each slot of
    their frame before the transformer instead of taking part in it. Attention has no norm before it, as in the authors'
    code; only the MLP has.
    """

    def __init__(
        self,
        width: int,
        *,
        history: int,
        future: int,
        proprio: bool,
        conditioning: Literal["nodes", "concatenated"],
        depth: int,
        heads: int,
        head_dim: int,
        mlp: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.history, self.future, self.conditions = history, future, 1 + proprio
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.times = nn.Parameter(torch.randn(1, history + future, 1, width))
        self.anchor = nn.Linear(width, width)
        self.concatenated = conditioning == "concatenated"
        if self.concatenated:
            self.fold = nn.Linear((1 + self.conditions) * width, width)
            self.proprio_output = nn.Linear(width, width) if proprio else None
        self.blocks = block_stack(width, depth, heads=heads, head_dim=head_dim, mlp=mlp, norm=False, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)

    def forward(self, seen: Tensor, hidden: Tensor | None = None, *, future_only: bool = False) -> Tensor:
        """Predict every token but the action's, (B, T, M−1, D), or (B, R, M−1, D) of the future only.

        From the history's tokens (B, H, M, D); ``hidden`` (B, N) or (1, N) is true for slots hidden after frame 0.
        """
        grid = self.tokens(seen, hidden)
        if self.concatenated:
            return self.fold_and_transform(grid, future_only=future_only)
        return self.transform(grid, future_only=future_only)[:, :, :-1]

    def tokens(self, seen: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Input of the transformer (B, T, M, D); see ``forward``."""
        frames = seen.shape[1]
        times = self.times[:, self.history - frames :]
        queries = self.mask_token + times + self.anchor(seen[:, :1])
        visible = seen + times[:, :frames]
        if hidden is not None:
            later = torch.arange(frames, device=seen.device) > 0
            hide = F.pad(hidden, (0, self.conditions))[:, None, :, None] & later[:, None, None]
            visible = torch.where(hide, queries[:, :frames], visible)
        return torch.cat([visible, queries[:, frames:]], dim=1)

    def transform(self, grid: Tensor, *, future_only: bool = False) -> Tensor:
        """Tokens (B, T, M, D), any M, through the transformer to (B, T, M, D) or (B, R, M, D)."""
        count = grid.shape[2]
        x = grid.flatten(1, 2)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        x = last(x, only=slice(-self.future * count, None) if future_only else None)
        out: Tensor = self.output(self.norm(x))
        return out.reshape(grid.shape[0], -1, *grid.shape[2:])

    def attention(self, seen: Tensor) -> Tensor:
        """Return how much each token looks at each, from the history's (B, H, M, D), none of them hidden.

        (B, layers, heads, T, M, T, M): the looking token's frame and place, then those of what it looks at. With joined
        conditions M counts the slots alone.
        """
        grid = self.tokens(seen)
        if self.concatenated:
            grid = self.fold_conditions(grid)
        x = grid.flatten(1, 2)
        weights = []
        for block in self.blocks:
            assert isinstance(block, Block)
            weights.append(block.attention.weights(x))
            x = block(x)
        frames = grid.shape[1:3]
        return torch.stack(weights, dim=1).reshape(len(x), len(weights), -1, *frames, *frames)

    def fold_conditions(self, grid: Tensor) -> Tensor:
        """Slots (B, T, M−C, D) that carry their frame's conditions, the last C tokens of (B, T, M, D)."""
        slots, conditions = grid.tensor_split((grid.shape[2] - self.conditions,), dim=2)
        conditions = conditions.flatten(2).unsqueeze(2).expand(-1, -1, slots.shape[2], -1)
        folded: Tensor = self.fold(torch.cat([slots, conditions], dim=-1))
        return folded

    def fold_and_transform(self, grid: Tensor, *, future_only: bool = False) -> Tensor:
        """Slots that carry their frame's conditions through the transformer; proprioception is read off their mean."""
        slots = self.transform(self.fold_conditions(grid), future_only=future_only)
        if self.proprio_output is None:
            return slots
        return torch.cat([slots, self.proprio_output(slots.mean(dim=2, keepdim=True))], dim=2)
