"""A controller's sizes as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.config import at_least
from jepakit.zoo.latents import PairConfig


@dataclass(frozen=True, kw_only=True)
class ControllerConfig(PairConfig):
    """Sizes of a controller: ``steps`` raw actions come at once, in ``modes`` different ways to the same goal."""

    steps: int = 25
    modes: int = 1
    width: int = 512
    depth: int = 3
    dropout: float = 0.1
    offset_features: int = at_least(2, default=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 <= dropout < 1")
        if self.world_model and self.steps % self.frame_skip:  # until then frame_skip is not known
            raise ValueError(f"steps: found {self.steps}, expected whole blocks of frame_skip, {self.frame_skip}")
