"""Gradient descent on the plan itself, through the world model.

Shapes: B environments, S starts, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepakit.planning.search import IterativeSolver, Sampler, Scored, Search, SearchConfig
from jepakit.planning.solver import Array, CostFunction, DifferentiableCost

_BETA_1, _BETA_2, _EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)


@dataclass(frozen=True, kw_only=True)
class GradientConfig(SearchConfig):
    """Settings of :class:`Gradient`; ``samples`` is the number of starts. For the others see ``SearchConfig``.

    Args:
        learning_rate: Adam's, in standard deviations of the training actions per iteration.

    """

    samples: int = 16
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("learning_rate", self.learning_rate > 0.0, "more than 0")


class Gradient(IterativeSolver[GradientConfig]):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) from several random starts; the answer is the best plan seen.

    Plans outside the bounds are projected back after every step. Needs a backend that can differentiate.
    """

    name = "gradient"
    needs_gradients = True

    def __init__(self, config: GradientConfig | None = None) -> None:
        super().__init__(config or GradientConfig())

    def begin(self, sampler: Sampler, centre: Array) -> Search:
        """See :class:`jepakit.planning.search.IterativeSolver`."""
        return _GradientSearch(self.config, sampler, centre)

    def _evaluate(self, cost: CostFunction, candidates: Array) -> tuple[Array, Array | None]:
        if not isinstance(cost, DifferentiableCost):
            raise TypeError("cost: found a function without gradients, expected a DifferentiableCost")
        costs, gradients = cost.with_gradient(candidates)
        self._check(costs, candidates)
        return costs, gradients


class _GradientSearch(Search):
    def __init__(self, config: GradientConfig, sampler: Sampler, centre: Array) -> None:
        super().__init__(sampler, centre)
        self._learning_rate = np.float32(config.learning_rate)
        self._steps = 0
        self._plans = self._sound = self._first = self._second = np.empty((0, len(centre)), np.float32)

    def propose(self, out: Array) -> None:
        if self._steps:
            out[:] = self._plans
        else:
            self.sampler.draw(self.best, np.float32(1.0), out)
            out[0] = self.best

    def learn(self, scored: Scored) -> None:
        assert scored.gradients is not None
        self.keep_best(scored)
        self.needed = 0  # there is an answer
        if not self._steps:
            self._sound = scored.candidates
            self._first = self._second = np.zeros_like(scored.candidates)
        # A plan that has walked to where the model breaks down goes back by a step and loses its momentum.
        works = np.isfinite(scored.costs)[:, None]
        self._sound = np.where(works, scored.candidates, self._sound)
        self._plans = self.sampler.clip(self._sound - np.where(works, self._step(scored.gradients), np.float32(0)))
        self._first = np.where(works, self._first, np.float32(0))

    def _step(self, gradients: Array) -> Array:
        """Return Adam's step ``(S, K·A)``; entries without a finite slope have none."""
        slope = np.where(np.isfinite(gradients), gradients, np.float32(0))
        self._steps += 1
        self._first = _BETA_1 * self._first + (1 - _BETA_1) * slope
        self._second = _BETA_2 * self._second + (1 - _BETA_2) * np.square(slope)
        first = self._first / (1 - _BETA_1**self._steps)
        second = self._second / (1 - _BETA_2**self._steps)
        step: Array = self._learning_rate * first / (np.sqrt(second) + _EPSILON)
        return step
