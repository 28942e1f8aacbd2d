"""A learned distance's sizes as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.latents import PairConfig


@dataclass(frozen=True, kw_only=True)
class DistanceConfig(PairConfig):
    """Sizes of a learned distance; ``imagined`` weighs its error on latents that the world model has imagined."""

    width: int = 256
    depth: int = 2
    imagined: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.imagined < 0.0:
            raise ValueError(f"imagined: found {self.imagined}, expected a weight of 0 or more")
