"""Random shooting: the plainest search, and the yardstick for the others.

Shapes: S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepakit.planning.search import IterativeSolver, Sampler, Scored, Search, SearchConfig
from jepakit.planning.solver import Array


@dataclass(frozen=True, kw_only=True)
class RandomShootingConfig(SearchConfig):
    """Settings of :class:`RandomShooting`: ``iterations`` rounds of ``samples`` plans each, see ``SearchConfig``."""


class RandomShooting(IterativeSolver[RandomShootingConfig]):
    """Draw plans like the training actions (around ``initial``, if given); the answer is the best of them all."""

    name = "random_shooting"

    def __init__(self, config: RandomShootingConfig | None = None) -> None:
        super().__init__(config or RandomShootingConfig())

    def begin(self, sampler: Sampler, centre: Array) -> Search:
        """See :class:`jepakit.planning.search.IterativeSolver`."""
        return _RandomSearch(sampler, centre)


class _RandomSearch(Search):
    def __init__(self, sampler: Sampler, centre: Array) -> None:
        super().__init__(sampler, centre)
        self._centre = centre

    def propose(self, out: Array) -> None:
        self.sampler.draw(self._centre, np.float32(1.0), out)

    def learn(self, scored: Scored) -> None:
        self.keep_best(scored)
