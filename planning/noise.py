"""Noise that is correlated along the raw action sequence ("coloured", power ~ 1 / f^β).

Shapes: S candidates, K horizon in blocks, F raw actions per block, C raw action width, A = F·C.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlation(steps: int, exponent: float) -> NDArray[np.float64]:
    """Correlation matrix ``(steps, steps)`` of a stationary sequence whose power spectrum falls as 1 / f^exponent.

    The spectrum is that of a sequence twice as long (frequencies from 1 / (2·steps) upwards, the constant counted as
    the lowest of them), so the two ends of the window are not tied together as they are when the inverse transform
    has just ``steps`` points (Pinneri et al. 2020, "Sample-efficient CEM", use the latter). Exponent 0 is white.
    """
    period = 2 * steps
    frequency = np.fft.fftfreq(period)
    frequency[0] = 1.0 / period
    power = np.abs(frequency) ** -exponent
    covariance = np.fft.ifft(power).real[:steps]
    lag = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    matrix: NDArray[np.float64] = covariance[lag] / covariance[0]
    return matrix


def colouring(*, horizon: int, frame_skip: int, width: int, exponent: float) -> NDArray[np.float32]:
    """Matrix ``(K·A, K·A)`` that turns white noise ``(S, K·A)`` into coloured noise by ``white @ matrix``.

    Every entry keeps unit variance, and the C action columns stay independent of each other: only time is coloured,
    over all K·F raw actions and not over block starts alone.
    """
    factor = np.linalg.cholesky(correlation(horizon * frame_skip, exponent))
    return np.kron(factor.T, np.eye(width // frame_skip)).astype(np.float32)
