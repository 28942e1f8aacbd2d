"""A controller's sizes as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.config import at_least
from jepakit.zoo.trainable import DataConfig


@dataclass(frozen=True, kw_only=True)
class ControllerConfig(DataConfig):
    """Sizes of a controller.

    ``max_offset`` environment steps is how far a goal may be away, ``steps`` how many raw actions come at once, and
    ``modes`` how many different ways to the same goal it can propose.

    The last five describe the world model: ``Controller`` fills them in. ``world_model`` is the fingerprint of its
    weights (``jepakit.zoo.files.fingerprint``), ``ordered`` says whether its latent tokens keep their places.
    """

    max_offset: int = 50
    steps: int = 25
    modes: int = 1
    width: int = 512
    depth: int = 3
    dropout: float = 0.1
    token_features: int = 128
    token_depth: int = 2
    token_heads: int = 4
    tokens: int = 1
    latent_width: int = 1
    ordered: bool = True
    world_model: str = ""
    offset_features: int = at_least(2, default=64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 <= dropout < 1")
        if self.steps % self.frame_skip:
            raise ValueError(f"steps: found {self.steps}, expected whole blocks of frame_skip, {self.frame_skip}")
