"""LeWM's sizes and loss weights as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.config import at_least
from jepakit.zoo.vector import VectorModelConfig


@dataclass(frozen=True, kw_only=True)
class LeWMConfig(VectorModelConfig):
    """LeWM as in the paper, size ``tiny``; ``LeWMConfig.nano()`` is the one for 64-pixel frames on a CPU.

    ``lambda_`` weighs SIGReg, whose random directions follow from ``seed`` and the training step.
    """

    lambda_: float = 0.09
    directions: int = 1024
    knots: int = at_least(2, default=17)
    seed: int = at_least(0, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_ < 0.0:
            raise ValueError(f"lambda_: found {self.lambda_}, expected at least 0")
