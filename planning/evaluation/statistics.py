"""The uncertainty of a success rate, and of the difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def mcnemar_test(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p-value of McNemar's test (1947) that two policies solve the same tasks equally often.

    Only tasks that one solved and the other did not count: under the hypothesis, each is a fair coin.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"outcomes: found {len(first)} and {len(second)}, expected the same tasks, at least one")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    trials = only_first + only_second
    fewest = sum(math.comb(trials, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, math.ldexp(fewest, 1 - trials))
