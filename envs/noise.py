"""Noise that remembers: what scripted policies add to their actions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class CorrelatedNoise:
    """A stationary first-order process ``(width,)`` of standard deviation ``scale``.

    ``correlation`` is that of successive samples: 0 is white noise, 0.95 drifts.
    """

    def __init__(self, width: int, *, scale: float, correlation: float, rng: np.random.Generator) -> None:
        self._scale = scale
        self._correlation = correlation
        self._rng = rng
        self._value = rng.standard_normal(width)

    def sample(self) -> NDArray[np.float64]:
        """The next sample."""
        fresh = np.sqrt(1.0 - self._correlation**2) * self._rng.standard_normal(self._value.shape)
        self._value = self._correlation * self._value + fresh
        return self._scale * self._value
