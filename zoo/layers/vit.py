"""Vision transformer encoders.

Shape letters: M pictures, N patches of a picture, V visible ones, W width, h, w picture size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.layers.transformer import FIRST, block_stack


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
        self.blocks = block_stack(width, depth, heads=heads, mlp=mlp, norm_eps=eps)
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


class PatchEncoder(nn.Module):
    """A ViT read at its patches, without CLS token, that can be shown some patches of a picture only.

    Positions are fixed sines and cosines, norms use eps 1e-6, as in V-JEPA (arXiv 2404.08471).
    """

    positions: Tensor

    def __init__(self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, mlp: int) -> None:
        super().__init__()
        eps = 1e-6
        grid = image_size // patch_size
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.register_buffer("positions", sincos_positions((grid, grid), width), persistent=False)
        self.blocks = block_stack(width, depth, heads=heads, mlp=mlp, norm_eps=eps)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.apply(_initialise)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))  # with 0.02, small patches drown in their positions

    def forward(self, frames: Tensor, visible: Tensor | None = None) -> Tensor:
        """Normalised pictures (M, 3, h, w) to patches (M, N, W), or to (M, V, W) for the indices ``visible`` (M, V)."""
        x = self.patches(frames).flatten(2).transpose(1, 2) + self.positions
        if visible is not None:
            x = x.gather(1, visible.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


def sincos_positions(shape: tuple[int, ...], width: int) -> Tensor:
    """Fixed positions (places, width) of the places of a grid, in row-major order.

    Every axis has an equal share of the width, half sines and half cosines of frequencies from 1 to 1/10000 (arXiv
    1706.03762); what the shares leave is 0.
    """
    pairs = width // (2 * len(shape))
    frequencies = 10_000.0 ** (-torch.arange(pairs) / pairs)
    axes = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    angles = torch.cat([axis.reshape(-1, 1) * frequencies for axis in axes], dim=1)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(waves, (0, width - waves.shape[1]))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
