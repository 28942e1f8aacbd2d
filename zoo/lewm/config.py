"""LeWM's sizes and loss weights as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jepakit.zoo.base import WorldModelConfig
from jepakit.zoo.layers.cnn import total_stride


@dataclass(frozen=True, kw_only=True)
class LeWMConfig(WorldModelConfig):
    """LeWM as in the paper (size ``tiny``); ``LeWMConfig.nano()`` is the one for 64-pixel frames on a CPU.

    ``encoder`` chooses between the ``vit_*`` and the ``cnn_*`` fields. ``lambda_`` weighs SIGReg, whose random
    directions follow from ``seed`` and the training step.
    """

    encoder: Literal["vit", "cnn"] = "vit"
    patch_size: int = 14
    vit_width: int = 192
    vit_depth: int = 12
    vit_heads: int = 3
    vit_mlp: int = 768
    cnn_channels: tuple[int, ...] = (32, 64, 96)

    latent_dim: int = 192
    projector_hidden: int = 2048
    action_mixed: int = 10
    action_hidden: int = 768
    predictor_width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp: int = 2048
    dropout: float = 0.1

    lambda_: float = 0.09
    directions: int = 1024
    knots: int = 17
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.knots < 2:
            raise ValueError(f"knots: found {self.knots}, expected at least 2")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 <= dropout < 1")
        if self.lambda_ < 0.0:
            raise ValueError(f"lambda_: found {self.lambda_}, expected at least 0")
        if self.encoder == "vit":
            _require_multiple("image_size", self.image_size, "patch_size", self.patch_size)
            _require_multiple("vit_width", self.vit_width, "vit_heads", self.vit_heads)
        else:
            if not self.cnn_channels or min(self.cnn_channels) < 1:
                raise ValueError(f"cnn_channels: found {list(self.cnn_channels)}, expected positive numbers")
            _require_multiple("image_size", self.image_size, "cnn_channels' stride", total_stride(self.cnn_channels))

    @classmethod
    def tiny(cls) -> LeWMConfig:
        """Return the paper's size: ViT-Tiny on 224-pixel frames, 18.0 M parameters."""
        return cls()

    @classmethod
    def nano(cls) -> LeWMConfig:
        """Return the size for 64-pixel frames that trains on a CPU in minutes: 1.3 M parameters."""
        return cls(
            image_size=64,
            encoder="cnn",
            latent_dim=64,
            projector_hidden=256,
            action_hidden=256,
            predictor_width=128,
            predictor_depth=3,
            predictor_heads=4,
            predictor_head_dim=32,
            predictor_mlp=256,
        )


def _require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{name}: found {value}, expected a multiple of {divisor_name}, {divisor}")
