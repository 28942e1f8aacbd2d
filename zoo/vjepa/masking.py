"""What trains VJEPA's encoder beside the encoder itself: masks and the predictor of hidden patches.

Shape letters: B batch, T frames, N patches of a frame, V visible and M hidden ones, E encoder width, W inner width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import Attention, Block, FeedForward
from jepakit.zoo.layers.vit import sincos_positions
from jepakit.zoo.ranks import ranks, share
from jepakit.zoo.trainable import step_generator

# The short-range masks of V-JEPA (arXiv 2404.08471, section 3).
_BLOCKS = 8
_AREA = 0.15  # of the picture
_ASPECTS = (0.75, 1.5)


def draw_masks(windows: int, grid: int, visible: int, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Indices of visible (B, V) and hidden (B, M) patches, drawn anew for every window, ``seed`` and ``step``.

    Eight rectangles of 15 % of the picture each hide what they cover. So that all windows have the same number of
    ``visible`` patches, those covered most often are hidden, at random among equals.
    """
    generator = step_generator(seed, step)
    chance = torch.rand(3, windows * ranks()[1], _BLOCKS, 1, generator=generator)
    low, high = (math.log(aspect) for aspect in _ASPECTS)
    root = (0.5 * (low + (high - low) * chance[0])).exp()
    side = math.sqrt(_AREA) * grid
    place = torch.arange(grid)

    def inside(length: Tensor, chance: Tensor) -> Tensor:
        """(B, blocks, grid), true where a row or column lies in the rectangle."""
        length = length.round().clamp(1, grid)
        first = (chance * (grid + 1 - length)).floor()
        return (place >= first) & (place < first + length)

    rows, columns = inside(side * root, chance[1]), inside(side / root, chance[2])
    covered = (rows.unsqueeze(3) & columns.unsqueeze(2)).sum(dim=1).flatten(1)
    order = share((covered + torch.rand(covered.shape, generator=generator)).argsort(dim=1))
    return order[:, :visible], order[:, visible:]


class MaskPredictor(nn.Module):
    """A narrow transformer that predicts hidden patches from all visible ones of a window."""

    positions: Tensor

    def __init__(self, width_out: int, *, frames: int, grid: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        eps = 1e-6
        self.input_proj = nn.Linear(width_out, width)
        self.query = nn.Parameter(torch.zeros(width))
        positions = sincos_positions((frames, grid, grid), width).reshape(frames, grid * grid, width)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads=heads, head_dim=width // heads, qkv_bias=True, norm_eps=eps),
                FeedForward(width, 4 * width, norm_eps=eps),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.output_proj = nn.Linear(width, width_out)

    def forward(self, context: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions (B, T, M, E) from context (B, T, V, E), the same indices (B, V), (B, M) in every frame."""
        frames = context.shape[1]
        positions = self.positions[:frames]
        known = self.input_proj(context) + positions[:, visible].transpose(0, 1)
        asked = self.query + positions[:, hidden].transpose(0, 1)
        x = torch.cat([known.flatten(1, 2), asked.flatten(1, 2)], dim=1)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        x = last(x, only=slice(known.shape[1] * known.shape[2], None))
        out: Tensor = self.output_proj(self.norm(x)).unflatten(1, (frames, -1))
        return out
