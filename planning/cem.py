"""Cross-entropy method with the rules of the LeWM paper (arXiv 2603.19312, appendix on planning).

Shapes: S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepakit.planning.search import IterativeSolver, Sampler, Scored, Search, SearchConfig
from jepakit.planning.solver import Array


@dataclass(frozen=True, kw_only=True)
class CEMConfig(SearchConfig):
    """Settings of :class:`CEM`; the defaults are the paper's. For the others see ``SearchConfig``.

    Args:
        elites: candidates with the lowest costs, from which the distribution is refitted.
        min_std: lower limit of the standard deviation after a refit.

    """

    elites: int = 30
    min_std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self, self.elites)
        self._require("min_std", self.min_std >= 0.0, "0 or more")


class CEM(IterativeSolver[CEMConfig]):
    """Cross-entropy method: sample around a mean, keep the elites, refit, repeat; the answer is the last mean.

    Sample 0 of every iteration is the current mean itself. The standard deviation is the elites' unbiased one.
    ``Solution.cost`` is the mean cost of the last elites.
    """

    name = "cem"

    def __init__(self, config: CEMConfig | None = None) -> None:
        super().__init__(config or CEMConfig())

    def begin(self, sampler: Sampler, centre: Array) -> Search:
        """See :class:`jepakit.planning.search.IterativeSolver`."""
        return _CEMSearch(self.config, sampler, centre)


class _CEMSearch(Search):
    std: Array

    def __init__(self, config: CEMConfig, sampler: Sampler, centre: Array) -> None:
        super().__init__(sampler, centre)
        self.std = np.ones_like(centre)
        self.needed = config.elites
        self._min_std = np.float32(config.min_std)

    def propose(self, out: Array) -> None:
        self.sampler.draw(self.best, self.std, out)
        out[0] = self.best

    def learn(self, scored: Scored) -> None:
        chosen = np.argpartition(scored.costs, self.needed - 1)[: self.needed]
        self.cost = float(np.add.reduce(scored.costs[chosen])) / self.needed
        mean, std = refit(scored.candidates[chosen])
        self.best = self.sampler.clip(mean)
        self.std = np.maximum(std, self._min_std)


def refit(elites: Array) -> tuple[Array, Array]:
    """Return mean and unbiased standard deviation ``(K·A,)`` of plans ``(elites, K·A)``, which are overwritten."""
    count = len(elites)
    mean: Array = np.add.reduce(elites, axis=0) / np.float32(count)
    elites -= mean
    return mean, np.sqrt(np.add.reduce(np.square(elites, out=elites), axis=0) / np.float32(count - 1))


def check_elites(config: SearchConfig, elites: int) -> None:
    """Raise ``ValueError`` unless ``config`` has enough candidates for so many elites."""
    if not 2 <= elites <= config.samples:
        raise ValueError(
            f"{type(config).__name__}.elites: found {elites}, expected between 2 and samples = {config.samples} "
            "(one elite has no standard deviation)"
        )
