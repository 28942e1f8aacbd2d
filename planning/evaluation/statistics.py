"""The uncertainty of a success rate."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927; equation 4 of Brown, Cai and DasGupta 2001).

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 % and 100 %.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes: found {successes} of {trials} trials, expected 0 to trials and at least 1 trial")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
