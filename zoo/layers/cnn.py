"""A small convolutional encoder for pictures a CPU can train on.

Shape letters: M pictures, W width, h, w picture size.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from jepakit.zoo.layers.norms import BatchNorm2d

STEM_STRIDE = 4


class CNNEncoder(nn.Module):
    """A stem of 4 × 4 patches, then 3 × 3 convolutions of stride 2, flattened so that positions survive.

    ``channels`` has one entry per layer. The coarse stem is what makes it fast: stride-2 convolutions on full-size
    pictures cost more than all other layers together, and locate a dot no better. Every convolution has a batch norm
    behind it, unless ``norms`` is false: without them it learns where things are, but hardly how they are turned.
    """

    def __init__(self, *, image_size: int, channels: tuple[int, ...], norms: bool = True) -> None:
        super().__init__()
        self.image_size = image_size
        self.channels = channels
        layers: list[nn.Module] = []
        before = 3
        for width in channels:
            kernel, stride, padding = (3, 2, 1) if layers else (STEM_STRIDE, STEM_STRIDE, 0)
            layers.append(nn.Conv2d(before, width, kernel, stride, padding, bias=not norms))
            layers += [BatchNorm2d(width)] if norms else []
            layers.append(nn.ReLU(inplace=True))
            before = width
        self.layers = nn.Sequential(*layers)
        self.width = before * (image_size // total_stride(channels)) ** 2

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to vectors (M, W)."""
        out: Tensor = self.layers(frames).flatten(1)
        return out

    @torch.no_grad()
    def folded(self) -> CNNEncoder:
        """Return the same without norms: those of evaluation mode are folded into the convolutions before them."""
        plain = CNNEncoder(image_size=self.image_size, channels=self.channels, norms=False)
        trained = copy.deepcopy(self).eval()
        targets, convolutions = (
            [layer for layer in encoder.layers if isinstance(layer, nn.Conv2d)] for encoder in (plain, trained)
        )
        norms = [layer for layer in trained.layers if isinstance(layer, BatchNorm2d)]
        for target, convolution, norm in zip(targets, convolutions, norms, strict=True):
            target.load_state_dict(fuse_conv_bn_eval(convolution, norm).state_dict())
        return plain.eval()


def total_stride(channels: tuple[int, ...]) -> int:
    """Return how many pixels of a picture one position of the last layer stands for."""
    return int(STEM_STRIDE * 2 ** (len(channels) - 1))
