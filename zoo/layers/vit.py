"""The vision transformer encoder.

Shape letters: M pictures, W width, h, w picture size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import FIRST, Attention, Block, FeedForward


class ViTEncoder(nn.Module):
    """A ViT (arXiv 2010.11929) read at its CLS token: learned positions, final layer norm, no pooler.

    Norms use eps 1e-12 and weights start from a normal of deviation 0.02, as in Hugging Face's ViT, which LeWM's
    authors train.
    """

    def __init__(self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, mlp: int) -> None:
        super().__init__()
        eps = 1e-12
        self.width = width
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (image_size // patch_size) ** 2, width))
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads=heads, head_dim=width // heads, qkv_bias=True, norm_eps=eps),
                FeedForward(width, mlp, norm_eps=eps),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to vectors (M, W)."""
        x = self.patches(frames).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        out: Tensor = self.norm(last(x, only=FIRST).squeeze(1))
        return out


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
