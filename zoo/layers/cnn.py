"""A small convolutional encoder for pictures a CPU can train on.

Shape letters: M pictures, h, w picture size, W width.
"""

from __future__ import annotations

from torch import Tensor, nn


class CNNEncoder(nn.Module):
    """Convolutions of stride 2, one per entry of ``channels``, flattened so that positions survive."""

    def __init__(self, *, image_size: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for after in channels:
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), nn.ReLU()]
            before = after
        self.layers = nn.Sequential(*layers)
        self.width = before * (image_size // 2 ** len(channels)) ** 2

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to vectors (M, W)."""
        out: Tensor = self.layers(frames).flatten(1)
        return out
