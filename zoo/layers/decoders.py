"""Decoders for looking at latents: patch tokens or a single vector back to a picture.

Shape letters: M pictures, N tokens, D latent width, C channels, Q queries, h, w picture size.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

L = TypeVar("L", bound=nn.Module)


class PictureDecoder(nn.Module):
    """A decoder on top of a learned background.

    What moves is often a few pixels in a picture that stands still. Started from the mean picture, a decoder spends
    its steps on what the latents say; without, most of them go into the walls.
    """

    def __init__(self, body: nn.Module, image_size: int) -> None:
        super().__init__()
        self.body = body
        self.background = nn.Parameter(torch.zeros(1, 3, image_size, image_size))

    @torch.no_grad()
    def start_from(self, pictures: Tensor) -> None:
        """Make the mean of pictures (M, 3, h, w) the background."""
        self.background.copy_(pictures.mean(dim=0, keepdim=True))

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (M, N, D) to pictures (M, 3, h, w) in about [0, 1]."""
        pictures: Tensor = self.background + self.body(latents)
        return pictures


class PatchDecoder(nn.Module):
    """Two transposed convolutions of stride 4, as in DINO-WM (arXiv 2411.04983): a g × g grid becomes 16g × 16g pixels.

    14 × 14 tokens give 224 pixels and 4 × 4 give 64; where the frames have another size (16 × 16 tokens of 224
    pixels) the picture is scaled to it.
    """

    def __init__(self, width: int, *, tokens: int, image_size: int, channels: int = 128) -> None:
        super().__init__()
        self.grid = math.isqrt(tokens)
        if self.grid**2 != tokens:
            raise ValueError(f"tokens: found {tokens}, expected those of a square grid, such as 196")
        self.image_size = image_size
        self.layers = nn.Sequential(
            nn.Conv2d(width, channels, kernel_size=3, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels // 2, kernel_size=4, stride=4),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels // 2, kernel_size=3, padding=1),
            nn.GELU(),
            _zero(nn.ConvTranspose2d(channels // 2, 3, kernel_size=4, stride=4)),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens (M, N, D), in rows from the top left, to pictures (M, 3, h, w) less the background."""
        maps = latents.transpose(1, 2).reshape(len(latents), -1, self.grid, self.grid)
        pictures: Tensor = self.layers(maps)
        if pictures.shape[-1] != self.image_size:
            pictures = F.interpolate(pictures, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return pictures


class VectorDecoder(nn.Module):
    """Learned queries, one per patch, look at the latent in cross-attention layers (arXiv 2603.19312, appendix).

    At 224 pixels 196 queries of 16 × 16 pixels as in the paper.
    """

    def __init__(
        self, width: int, *, image_size: int, patch_size: int = 16, inner: int = 128, depth: int = 3, heads: int = 4
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size: found {image_size}, expected a multiple of patch_size, {patch_size}")
        self.patch_size = patch_size
        self.grid = image_size // patch_size
        self.queries = nn.Parameter(torch.randn(1, self.grid**2, inner))
        self.latents = nn.Linear(width, inner)
        self.blocks = nn.ModuleList(CrossBlock(inner, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(inner)
        self.patches = _zero(nn.Linear(inner, 3 * patch_size**2))

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (M, N, D) to pictures (M, 3, h, w) less the background."""
        keys, x = self.latents(latents), self.queries.expand(len(latents), -1, -1)
        for block in self.blocks:
            x = block(x, keys)
        patches = self.patches(self.norm(x)).transpose(1, 2)
        pixels = self.grid * self.patch_size
        return F.fold(patches, (pixels, pixels), self.patch_size, stride=self.patch_size)


class CrossBlock(nn.Module):
    """x + attention(x, keys), then x + feed-forward(x), with layer norms before both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Queries (M, Q, C) and keys (M, N, C) to (M, Q, C)."""
        mixed, _ = self.attention(self.norm(x), keys, keys, need_weights=False)
        x = x + mixed
        out: Tensor = x + self.feed_forward(x)
        return out


def picture_decoder(*, tokens: int, width: int, image_size: int) -> PictureDecoder:
    """Return a decoder for latents (M, N, D) of N ``tokens``: one vector, or a square grid of patches.

    Raises ``ValueError`` for other numbers of tokens.
    """
    body: nn.Module
    if tokens == 1:
        body = VectorDecoder(width, image_size=image_size, patch_size=_patch_size(image_size))
    else:
        body = PatchDecoder(width, tokens=tokens, image_size=image_size)
    return PictureDecoder(body, image_size)


def _patch_size(image_size: int) -> int:
    """The largest divisor of ``image_size`` up to 16 that leaves 8 patches a side, if there is one."""
    return max((size for size in range(1, 17) if image_size % size == 0 and image_size // size >= 8), default=1)


def _zero(layer: L) -> L:
    """Let a layer start with nothing, so that the first pictures are the background."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
