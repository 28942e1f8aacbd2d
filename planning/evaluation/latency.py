"""How long one call takes, as a distribution: a robot's deadline is about the tail, not the mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles of the wall time of one call, in milliseconds, over ``repeats`` calls."""

    p50: float
    p95: float
    p99: float
    repeats: int


def measure_latency(call: Callable[[], object], *, repeats: int, warmup: int) -> Latency:
    """Time ``repeats`` calls after ``warmup`` untimed ones, which pay for lazy initialisation and cold caches."""
    if repeats < 1 or warmup < 0:
        raise ValueError(f"latency: found repeats {repeats} and warmup {warmup}, expected at least 1 and 0")
    for _ in range(warmup):
        call()
    seconds = np.empty(repeats)
    for index in range(repeats):
        start = time.perf_counter()
        call()
        seconds[index] = time.perf_counter() - start
    return percentiles(seconds.tolist())


def percentiles(seconds: Collection[float]) -> Latency:
    """Summarise the wall times of at least one call."""
    p50, p95, p99 = (float(value) for value in np.percentile(1e3 * np.array(list(seconds)), (50, 95, 99)))
    return Latency(p50=p50, p95=p95, p99=p99, repeats=len(seconds))
