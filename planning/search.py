"""What all solvers share: the loop over iterations, the noise, the bounds, when to stop.

Every environment's search is an object of its own, so that a plan is bit-identical whatever batch it is computed in.

Shapes: B environments, M guesses, S candidates, K horizon in blocks, A action-block width. Inside a search, plans are
flat, ``(K·A,)``: long inner loops for NumPy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from jepakit.planning.noise import colouring
from jepakit.planning.solver import Array, CostFunction, SearchSpace, Solution, Stop

#: Iterations over which a cost must have stopped falling.
PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings that every solver has.

    Args:
        samples: candidates per iteration, S.
        iterations: most iterations per plan.
        noise_exponent: β of the noise's power spectrum 1 / f^β along the raw action sequence; 0 is white.
        tolerance: an environment's search ends when its cost has fallen by no more than ``tolerance`` standard
            deviations of the first iteration's costs in the last three iterations; 0 never ends it early.

    """

    samples: int = 300
    iterations: int = 30
    noise_exponent: float = 0.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("samples", "iterations"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("noise_exponent", 0.0 <= self.noise_exponent <= 4.0, "between 0 and 4")
        self._require("tolerance", self.tolerance >= 0.0, "0 or more")

    def _require(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ValueError(f"{type(self).__name__}.{name}: found {getattr(self, name)}, expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """One environment's source of plans: its generator, the colour of its noise, its bounds ``(K·A,)``."""

    rng: np.random.Generator
    colour: Array | None
    low: Array
    high: Array
    bounded: bool

    def draw(self, mean: Array, std: Array | np.float32, out: Array) -> None:
        """Fill ``out`` ``(S, K·A)`` with Gaussian plans, coloured in time, within the bounds."""
        self.rng.standard_normal(dtype=np.float32, out=out)
        if self.colour is not None:
            out[:] = out @ self.colour
        out *= std
        out += mean
        self.clip(out)

    def clip(self, plans: Array) -> Array:
        """Move ``plans`` ``(..., K·A)`` into the bounds, in place; returns them."""
        if self.bounded:
            np.maximum(plans, self.low, out=plans)
            np.minimum(plans, self.high, out=plans)
        return plans


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One environment's candidates ``(S, K·A)``, what they cost ``(S,)`` and, where needed, ``gradients (S, K·A)``.

    A search is given +∞ for every cost that is not finite.
    """

    candidates: Array
    costs: Array
    gradients: Array | None


class Search(ABC):
    """One environment's search.

    ``best`` ``(K·A,)`` is its answer so far and ``cost`` the estimate of what that costs; ``std`` ``(K·A,)`` is the
    width of the distribution that candidates come from, where a solver adapts it.
    """

    needed: int = 1  # candidates with a finite cost, without which an iteration teaches nothing
    std: Array | None = None

    def __init__(self, sampler: Sampler, centre: Array) -> None:
        self.sampler = sampler
        self.best = centre.copy()
        self.cost = float("inf")

    @abstractmethod
    def propose(self, out: Array) -> None:
        """Fill ``out`` ``(S, K·A)`` with candidates within the bounds."""

    @abstractmethod
    def learn(self, scored: Scored) -> None:
        """Take in what the candidates cost; at least ``needed`` of the costs are finite."""

    def guesses(self) -> Array:
        """Return ``(M, K·A)``, see ``Solution.guesses``."""
        guesses: Array = self.best[None]
        return guesses

    def keep_best(self, scored: Scored) -> None:
        """Make the cheapest candidate the answer, if it is cheaper than the answer so far."""
        index = int(np.argmin(scored.costs))
        if scored.costs[index] < self.cost:
            self.best, self.cost = scored.candidates[index].copy(), float(scored.costs[index])


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """A search after iteration ``number``.

    ``actions (B, K, A)`` is the answer if it ended here, ``cost (B,)`` what the solver believes it costs, ``costs
    (B, S)`` what its candidates cost; ``std (B, K, A)`` see :class:`Search`, ``guesses`` and ``stop`` see ``Solution``.
    """

    number: int
    actions: Array
    cost: Array
    costs: Array
    std: Array | None
    guesses: Array
    stop: Stop | None


C = TypeVar("C", bound=SearchConfig)


class IterativeSolver(ABC, Generic[C]):
    """A solver that repeats: propose candidates, score all environments' in one call, learn."""

    name: ClassVar[str]
    needs_gradients: ClassVar[bool] = False

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def begin(self, sampler: Sampler, centre: Array) -> Search:
        """Begin one environment's search around the plan ``centre`` ``(K·A,)``."""

    def count(self, number: int) -> int:
        """Return the number of candidates of iteration ``number`` (from 1)."""
        return self.config.samples

    def solve(
        self,
        cost: CostFunction,
        space: SearchSpace,
        *,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """See :class:`jepakit.planning.solver.Solver`."""
        for step in self.search(cost, space, rngs=rngs, initial=initial):
            stop = step.stop
            if stop is None and deadline is not None and monotonic() >= deadline:
                stop = "deadline"
            if stop is not None:
                break
        assert stop is not None  # the last iteration says why it is
        return Solution(actions=step.actions, cost=step.cost, iterations=step.number, stop=stop, guesses=step.guesses)

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.solver.Solver`."""
        return {"name": self.name, **asdict(self.config)}

    def search(
        self,
        cost: CostFunction,
        space: SearchSpace,
        *,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
    ) -> Iterator[Iteration]:
        """Yield the search after every iteration; arguments as in :meth:`solve`.

        An environment that has converged draws nothing more, and its candidates are its answer.
        """
        batch, plan = len(rngs), (space.horizon, space.width)
        starts = _starts(initial, batch, plan)
        lanes = [
            _Lane(self.begin(sampler, sampler.clip(guesses)[0]), guesses, self.config.tolerance)
            for sampler, guesses in zip(self._samplers(space, rngs), starts, strict=True)
        ]
        for number in range(1, self.config.iterations + 1):
            candidates = np.empty((batch, self.count(number), space.horizon * space.width), np.float32)
            for lane, out in zip(lanes, candidates, strict=True):
                lane.propose(out)
            costs, gradients = self._evaluate(cost, candidates.reshape(batch, -1, *plan))
            for b, lane in enumerate(lanes):
                slopes = None if gradients is None else gradients[b].reshape(candidates[b].shape)
                lane.learn(Scored(candidates=candidates[b], costs=costs[b], gradients=slopes), environment=b)
            stop: Stop | None = "iterations" if number == self.config.iterations else None
            if all(lane.converged for lane in lanes):
                stop = "converged"
            yield _iteration(number, [lane.search for lane in lanes], costs, stop, plan)
            if stop is not None:
                return

    def _samplers(self, space: SearchSpace, rngs: Sequence[np.random.Generator]) -> list[Sampler]:
        exponent, colour = self.config.noise_exponent, None
        if exponent:
            colour = colouring(horizon=space.horizon, frame_skip=space.frame_skip, width=space.width, exponent=exponent)
        low, high = (np.tile(bound, space.horizon) for bound in (space.low, space.high))
        return [Sampler(rng=rng, colour=colour, low=low, high=high, bounded=space.bounded) for rng in rngs]

    def _evaluate(self, cost: CostFunction, candidates: Array) -> tuple[Array, Array | None]:
        costs = cost(candidates)
        self._check(costs, candidates)
        return costs, None

    @staticmethod
    def _check(costs: Array, candidates: Array) -> None:
        if costs.shape != candidates.shape[:2]:
            raise ValueError(f"costs: found shape {costs.shape}, expected (B, S) = {candidates.shape[:2]}")


class _Lane:
    """One environment: its search, the guesses it tries first, and whether its cost still falls."""

    def __init__(self, search: Search, guesses: Array, tolerance: float) -> None:
        self.search = search
        self.converged = False
        self._guesses = guesses
        self._tolerance = tolerance
        self._history: list[float] = []
        self._least = 0.0

    def propose(self, out: Array) -> None:
        """Fill ``out`` ``(S, K·A)``."""
        if self.converged:
            out[:] = self.search.best
            return
        self.search.propose(out)
        if not self._history:
            out[: len(self._guesses)] = self._guesses[: len(out)]

    def learn(self, scored: Scored, *, environment: int) -> None:
        """Pass on what the candidates cost, unless the search is over."""
        if self.converged:
            return
        scored = replace(scored, costs=_usable(scored.costs, self.search.needed, environment))
        self.search.learn(scored)
        if not self._history:
            self._least = self._tolerance * float(scored.costs[np.isfinite(scored.costs)].std())
        self._history.append(self.search.cost)
        if self._tolerance and len(self._history) > PATIENCE:
            self.converged = self._history[-1 - PATIENCE] - self.search.cost <= self._least


def _starts(initial: Array | None, batch: int, plan: tuple[int, int]) -> Array:
    """Return ``initial`` as flat guesses ``(B, M, K·A)``, by default the mean of the training actions."""
    if initial is None:
        return np.zeros((batch, 1, plan[0] * plan[1]), np.float32)
    guesses = initial[:, None] if initial.ndim == 3 else initial
    if guesses.ndim != 4 or guesses.shape[::2] != (batch, plan[0]) or guesses.shape[3] != plan[1]:
        raise ValueError(
            f"initial plan: found shape {initial.shape}, expected (B, K, A) = {(batch, *plan)}, or (B, M, K, A)"
        )
    if not np.isfinite(guesses).all():
        raise ValueError("initial plan: found numbers that are not finite, expected finite actions")
    return guesses.reshape(*guesses.shape[:2], -1).astype(np.float32)


def _usable(costs: Array, needed: int, environment: int) -> Array:
    """Return the costs with an infinite one for each that is not finite: such candidates lose."""
    finite = np.isfinite(costs)
    found = int(finite.sum())
    if found < needed:
        raise ValueError(
            f"costs of environment {environment}: found {found} finite values of {costs.size}, "
            f"expected at least {needed}; does the model return NaN?"
        )
    return costs if found == costs.size else np.where(finite, costs, np.float32(np.inf))


def _iteration(
    number: int, searches: Sequence[Search], costs: Array, stop: Stop | None, plan: tuple[int, int]
) -> Iteration:
    widths = [search.std for search in searches if search.std is not None]
    guesses = np.stack([search.guesses() for search in searches])
    return Iteration(
        number=number,
        actions=np.stack([search.best for search in searches]).reshape(-1, *plan),
        cost=np.array([search.cost for search in searches], np.float32),
        costs=costs,
        std=np.stack(widths).reshape(-1, *plan) if widths else None,
        guesses=guesses.reshape(*guesses.shape[:2], *plan),
        stop=stop,
    )
