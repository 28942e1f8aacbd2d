"""Cross-entropy method with the rules of the LeWM paper (arXiv 2603.19312, appendix on planning).

Shapes: B environments, S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jepakit.planning.noise import colouring
from jepakit.planning.solver import Array, CostFunction, SearchSpace, Solution


@dataclass(frozen=True, kw_only=True)
class CEMConfig:
    """Settings of :class:`CEM`; the defaults are the paper's.

    Args:
        samples: candidates per iteration, S.
        elites: candidates with the lowest costs, from which the distribution is refitted.
        iterations: refits per plan.
        noise_exponent: β of the noise's power spectrum 1 / f^β along the raw action sequence; 0 is white.
        min_std: lower limit of the standard deviation after a refit.

    """

    samples: int = 300
    elites: int = 30
    iterations: int = 30
    noise_exponent: float = 0.0
    min_std: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.elites <= self.samples:
            raise ValueError(
                f"CEMConfig.elites: found {self.elites}, expected between 2 and samples = {self.samples} "
                "(one elite has no standard deviation)"
            )
        if self.iterations < 1:
            raise ValueError(f"CEMConfig.iterations: found {self.iterations}, expected at least 1")
        if not 0.0 <= self.noise_exponent <= 4.0:
            raise ValueError(f"CEMConfig.noise_exponent: found {self.noise_exponent}, expected between 0 and 4")
        if self.min_std < 0.0:
            raise ValueError(f"CEMConfig.min_std: found {self.min_std}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class CEMIteration:
    """The search after refit ``number``: ``mean``, ``std`` ``(B, K, A)``, ``costs (B, S)``, ``elite_cost (B,)``."""

    number: int
    mean: Array
    std: Array
    costs: Array
    elite_cost: Array


class CEM:
    """Cross-entropy method: sample around a mean, keep the elites, refit, repeat; the answer is the last mean.

    Sample 0 of every iteration is the current mean itself. The standard deviation is the elites' unbiased one.
    Candidates are clipped to the bounds of the search space, if it has any.
    All arithmetic is done one environment at a time, so a plan is bit-identical whatever batch it is computed in.
    """

    def __init__(self, config: CEMConfig | None = None) -> None:
        self.config = config or CEMConfig()

    def solve(
        self,
        cost: CostFunction,
        space: SearchSpace,
        *,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """See :class:`jepakit.planning.solver.Solver`. ``Solution.cost`` is the mean cost of the last elites."""
        for step in self.search(cost, space, rngs=rngs, initial=initial):
            solution = Solution(actions=step.mean, cost=step.elite_cost, iterations=step.number)
            if deadline is not None and time.monotonic() >= deadline:
                break
        return solution

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.solver.Solver`."""
        return {"name": "cem", **asdict(self.config)}

    def search(
        self,
        cost: CostFunction,
        space: SearchSpace,
        *,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
    ) -> Iterator[CEMIteration]:
        """Yield the search after each of ``config.iterations`` refits; arguments as in :meth:`solve`."""
        config = self.config
        batch, width = len(rngs), space.horizon * space.width
        plans = (batch, space.horizon, space.width)
        mean = np.zeros((batch, width), np.float32) if initial is None else _flat(initial, plans)
        std = np.ones((batch, width), np.float32)
        low, high = (np.tile(bound, space.horizon) for bound in (space.low, space.high))
        if space.bounded:
            mean = np.clip(mean, low, high)
        colour = self._colour(space)
        # Flat plans keep NumPy's inner loops long; the cost function sees them as blocks.
        candidates = np.empty((batch, config.samples, width), np.float32)
        blocks = candidates.reshape(batch, config.samples, space.horizon, space.width)
        elite_cost = np.empty(batch, np.float32)
        for number in range(1, config.iterations + 1):
            for b, rng in enumerate(rngs):
                rng.standard_normal(dtype=np.float32, out=candidates[b])
                _place(candidates[b], mean[b], std[b], colour)
                if space.bounded:
                    np.minimum(np.maximum(candidates[b], low, out=candidates[b]), high, out=candidates[b])
            costs = cost(blocks)
            if costs.shape != (batch, config.samples):
                raise ValueError(f"costs: found shape {costs.shape}, expected (B, S) = {(batch, config.samples)}")
            for b in range(batch):
                mean[b], std[b], elite_cost[b] = self._refit(candidates[b], costs[b], b)
            yield CEMIteration(
                number=number,
                mean=mean.reshape(plans).copy(),
                std=std.reshape(plans).copy(),
                costs=costs,
                elite_cost=elite_cost.copy(),
            )

    def _colour(self, space: SearchSpace) -> Array | None:
        if self.config.noise_exponent == 0.0:
            return None
        return colouring(
            horizon=space.horizon,
            frame_skip=space.frame_skip,
            width=space.width,
            exponent=self.config.noise_exponent,
        )

    def _refit(self, candidates: Array, costs: Array, environment: int) -> tuple[Array, Array, float]:
        """Return mean and unbiased standard deviation of one environment's elites, and their mean cost."""
        elites = self.config.elites
        chosen = np.argpartition(costs, elites - 1)[:elites]
        cost = float(np.add.reduce(costs[chosen])) / elites
        if not math.isfinite(cost):
            raise ValueError(
                f"costs of environment {environment}: found {int(np.isfinite(costs).sum())} finite values of "
                f"{costs.size}, expected at least {elites} (one per elite); does the model return NaN?"
            )
        kept = candidates[chosen]
        mean = np.add.reduce(kept, axis=0) / np.float32(elites)
        kept -= mean
        std = np.sqrt(np.add.reduce(np.square(kept, out=kept), axis=0) / np.float32(elites - 1))
        return mean, np.maximum(std, np.float32(self.config.min_std)), cost


def _place(noise: Array, mean: Array, std: Array, colour: Array | None) -> None:
    """Turn white ``noise`` ``(S, K·A)`` into candidates around ``mean`` ``(K·A,)``, in place."""
    if colour is not None:
        noise[:] = noise @ colour
    noise *= std
    noise += mean
    noise[0] = mean


def _flat(initial: Array, expected: tuple[int, int, int]) -> Array:
    if initial.shape != expected:
        raise ValueError(f"initial plan: found shape {initial.shape}, expected (B, K, A) = {expected}")
    return initial.reshape(len(initial), -1).astype(np.float32)
