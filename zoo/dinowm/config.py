"""DINO-WM's sizes as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.config import at_least
from jepakit.zoo.frozen import FrozenEncoderConfig


@dataclass(frozen=True, kw_only=True)
class DINOWMConfig(FrozenEncoderConfig):
    """DINO-WM as in the paper on DINOv2-small; ``DINOWMConfig.nano()`` is the one for 64-pixel frames on a CPU.

    ``predictor_width`` 0 means as wide as its input, as in the paper. ``proprio_dim`` 0 means pixels only; ``alpha``
    weighs proprioception in the planning cost.
    """

    proprio_dim: int = at_least(0, default=0)
    action_embedding: int = 10
    proprio_embedding: int = 10
    predictor_width: int = at_least(0, default=0)
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp: int = 2048
    dropout: float = 0.1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 <= dropout < 1")
        if self.alpha < 0.0:
            raise ValueError(f"alpha: found {self.alpha}, expected at least 0")

    @property
    def latent_dim(self) -> int:
        """D: a visual token and the embedded proprioception."""
        return self.token_width + (self.proprio_embedding if self.proprio_dim else 0)

    @classmethod
    def nano(cls) -> DINOWMConfig:
        """Return the size for the convolutions of a nano LeWM on 64-pixel frames: 16 tokens of 96 numbers."""
        return cls(
            image_size=64,
            encoder="cnn",
            encoder_size=64,
            predictor_width=128,
            predictor_depth=2,
            predictor_heads=4,
            predictor_head_dim=32,
            predictor_mlp=256,
        )
