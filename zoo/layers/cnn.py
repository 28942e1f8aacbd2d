"""A small convolutional encoder for pictures a CPU can train on.

Shape letters: M pictures, W width, h, w picture size.
"""

from __future__ import annotations

from torch import Tensor, nn

STEM_STRIDE = 4


class CNNEncoder(nn.Module):
    """A stem of 4 × 4 patches, then 3 × 3 convolutions of stride 2, flattened so that positions survive.

    ``channels`` has one entry per layer. The coarse stem is what makes it fast: stride-2 convolutions on full-size
    pictures cost more than all other layers together, and locate a dot no better.
    """

    def __init__(self, *, image_size: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        stem, *rest = channels
        layers: list[nn.Module] = [nn.Conv2d(3, stem, kernel_size=STEM_STRIDE, stride=STEM_STRIDE)]
        before = stem
        for after in rest:
            layers += [nn.ReLU(inplace=True), nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)]
            before = after
        self.layers = nn.Sequential(*layers, nn.ReLU(inplace=True))
        self.width = before * (image_size // total_stride(channels)) ** 2

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to vectors (M, W)."""
        out: Tensor = self.layers(frames).flatten(1)
        return out


def total_stride(channels: tuple[int, ...]) -> int:
    """Return how many pixels of a picture one position of the last layer stands for."""
    return int(STEM_STRIDE * 2 ** (len(channels) - 1))
