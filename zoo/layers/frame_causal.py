"""The predictor of models with many tokens per frame: a transformer over frames × tokens, causal between frames.

Shape letters: B batch, H history frames, N tokens per frame, D token width, E action-embedding width, W inner width, S
candidates, K horizon in blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import Attention, Block, FeedForward


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
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads=heads, head_dim=head_dim, qkv_bias=False, dropout=dropout),
                FeedForward(width, mlp, dropout=dropout),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", frame_causal_mask(history, tokens), persistent=False)

    def forward(self, x: Tensor, *, last_only: bool = False) -> Tensor:
        """Tokens (B, H, N, width_in) to (B, H, N, W), or to (B, 1, N, W) for the last frame only.

        ``last_only`` spares the last block everything but that frame.
        """
        length = x.shape[1] * self.tokens
        mask = self.mask[:length, :length] if x.shape[1] > 1 else None
        x = self.input_proj(x).flatten(1, 2) + self.positions[:, :length]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, mask=mask)
        x = last(x, mask=mask, only=slice(-self.tokens, None) if last_only else None)
        out: Tensor = self.norm(x).unflatten(1, (-1, self.tokens))
        return out


def imagine(
    latents: Tensor,
    past: Tensor,
    candidates: Tensor,
    *,
    history: int,
    join: Callable[[Tensor, Tensor], Tensor],
    predict: Callable[[Tensor], Tensor],
) -> Tensor:
    """Imagined latents (B, S, K, N, D) from real ones (B, H, N, D), one frame per action, each seen by the next.

    ``past`` (B, H-1, E) and ``candidates`` (B, S, K, E) are embedded actions. ``join`` makes the predictor's tokens of
    latents (..., N, D) and actions (..., E); ``predict`` maps those of up to ``history`` frames, (B · S, H, ...), to
    the next frame's latents (B · S, 1, N, D). The context grows to ``history`` frames, then slides.
    """
    samples = candidates.shape[1]
    # Views: what all candidates share is copied only into the context of each step.
    context = join(latents[:, :-1], past).unsqueeze(1).expand(-1, samples, -1, -1, -1)
    z = latents[:, -1:].unsqueeze(1).expand(-1, samples, -1, -1, -1)
    imagined = []
    for a in torch.split(candidates, 1, dim=2):
        kept = context[:, :, max(0, context.shape[2] + 1 - history) :]
        context = torch.cat([kept, join(z, a)], dim=2)
        z = predict(context.flatten(0, 1)).reshape(z.shape)
        imagined.append(z)
    return torch.cat(imagined, dim=2)


def frame_causal_mask(frames: int, tokens: int) -> Tensor:
    """(frames · tokens)² booleans, true where a query (row) may look: its own frame and those before it."""
    frame = torch.arange(frames).repeat_interleave(tokens)
    return frame.unsqueeze(1) >= frame.unsqueeze(0)
