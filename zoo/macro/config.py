"""Sizes of a macro-action model as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.config import at_least, require_multiple
from jepakit.zoo.latents import LatentConfig


@dataclass(frozen=True, kw_only=True)
class MacroConfig(LatentConfig):
    """Sizes of a macro-action model: ``steps`` raw actions become ``macro_dim`` numbers.

    ``noise`` is the standard deviation of what is added to macro-actions in training, which themselves have unit
    variance: neighbouring ones then mean similar things, and a search may choose between those it has seen.
    """

    steps: int = 25
    macro_dim: int = 4
    noise: float = 0.2
    width: int = 256
    depth: int = 3
    heads: int = 4
    seed: int = at_least(0, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_multiple("width", self.width, "heads", self.heads)
        if self.noise < 0.0:
            raise ValueError(f"noise: found {self.noise}, expected a standard deviation of 0 or more")
