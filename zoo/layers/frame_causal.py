"""The predictor of models with many tokens per frame: a transformer over frames × tokens, causal between frames.

Shape letters: B batch, H history frames, n new frames, N tokens per frame, W inner width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import Block, Cache, block_stack


class FrameCausalPredictor(nn.Module):
    """A ViT over all tokens of ``history`` frames whose tokens see their own frame and earlier ones (DINO-WM).

    Positions are learned for every token of every frame. A linear map leads in where ``width_in`` is not ``width``;
    what comes out is ``width`` wide and layer-normed.
    """

    mask: Tensor

    def __init__(
        self,
        width_in: int,
        *,
        tokens: int,
        history: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.input_proj = nn.Identity() if width_in == width else nn.Linear(width_in, width)
        self.positions = nn.Parameter(torch.randn(1, history * tokens, width))
        self.blocks = block_stack(
            width, depth, heads=heads, head_dim=head_dim, mlp=mlp, qkv_bias=False, dropout=dropout
        )
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", frame_causal_mask(history, tokens), persistent=False)

    def forward(self, x: Tensor, *, last_only: bool = False) -> Tensor:
        """Tokens (B, H, N, width_in) to (B, H, N, W), or to (B, 1, N, W) for the last frame only.

        ``last_only`` spares the last block everything but that frame.
        """
        return self.extend(x, [], only=slice(-self.tokens, None) if last_only else None)[0]

    def extend(self, x: Tensor, before: Cache, *, only: slice | None) -> tuple[Tensor, Cache]:
        """Tokens (B, n, N, width_in), after the frames of ``before``, to (B, n, N, W), and the cache of all.

        The last block computes the tokens ``only`` of n · N: whole frames.
        """
        first = before[0][0].shape[1] if before else 0
        end = first + x.shape[1] * self.tokens
        mask = self.mask[first:end, :end] if x.shape[1] > 1 else None
        x = self.input_proj(x).flatten(1, 2) + self.positions[:, first:end]
        cache = []
        last = len(self.blocks) - 1
        for index, block in enumerate(cast("list[Block]", self.blocks)):
            x, seen = block.extend(
                x, before[index] if before else None, mask=mask, only=only if index == last else None
            )
            cache.append(seen)
        out: Tensor = self.norm(x).unflatten(1, (-1, self.tokens))
        return out, cache


def frame_causal_mask(frames: int, tokens: int) -> Tensor:
    """(frames · tokens)² booleans, true where a query (row) may look: its own frame and those before it."""
    frame = torch.arange(frames).repeat_interleave(tokens)
    return frame.unsqueeze(1) >= frame.unsqueeze(0)
