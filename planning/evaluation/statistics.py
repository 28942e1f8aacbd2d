"""The uncertainty of a success rate, and of the difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson_interval(successes: float, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927; equation 4 of Brown, Cai and DasGupta 2001).

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 % and 100 %. ``successes`` need not be
    whole: of tasks that several seeds were run on, it is the sum of their means.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes: found {successes} of {trials} trials, expected 0 to trials and at least 1 trial")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    shrink = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_test(*seeds: tuple[Sequence[bool], Sequence[bool]]) -> float:
    """Exact two-sided p-value that two policies solve the same tasks equally often.

    ``seeds`` are outcomes of the first and of the second policy, by task, for every training seed. Per task, what the
    first solved more often than the second, over all seeds, has either sign with equal probability under the hypothesis
    (Fisher's permutation test of pairs, 1935): seeds share tasks, so a task is one draw, not several. With one seed
    this is McNemar's exact test (1947).
    """
    if not seeds or any({len(one) for one in pair} != {len(seeds[0][0])} for pair in seeds) or not seeds[0][0]:
        sizes = ", ".join(f"{len(first)} and {len(second)}" for first, second in seeds) or "none"
        raise ValueError(f"outcomes: found {sizes}, expected the same tasks, at least one")
    first, second = (np.array(half, int).sum(0) for half in zip(*seeds, strict=True))
    distribution, difference = np.ones(1), first - second
    for size in np.abs(difference):  # of the sum over the tasks so far, every second value
        distribution = np.convolve(distribution, np.bincount([0, size], minlength=size + 1) / 2)
    values = np.abs(2 * np.arange(len(distribution)) - (len(distribution) - 1))
    return min(1.0, float(distribution[values >= abs(int(difference.sum()))].sum()))
