"""Improved cross-entropy method (Pinneri et al. 2020, "Sample-efficient CEM for real-time planning", arXiv 2008.06389).

Shapes: S candidates, M guesses, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jepakit.planning.cem import check_elites, refit
from jepakit.planning.search import IterativeSolver, Sampler, Scored, Search, SearchConfig
from jepakit.planning.solver import Array


@dataclass(frozen=True, kw_only=True)
class ICEMConfig(SearchConfig):
    """Settings of :class:`ICEM`. For the others see ``SearchConfig``.

    Args:
        elites: candidates with the lowest costs, from which the distribution is refitted.
        kept: fraction ξ of the elites that are candidates again in the next iteration, and in the next plan.
        shrink: factor γ by which the number of candidates falls from iteration to iteration.
        momentum: share α of the old mean and standard deviation in a refit.

    """

    samples: int = 128
    iterations: int = 3
    noise_exponent: float = 2.0
    elites: int = 10
    kept: float = 0.3
    shrink: float = 1.25
    momentum: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self, self.elites)
        self._require("kept", 0.0 <= self.kept <= 1.0, "between 0 and 1")
        self._require("shrink", self.shrink >= 1.0, "1 or more")
        self._require("momentum", 0.0 <= self.momentum < 1.0, "0 <= momentum < 1")


class ICEM(IterativeSolver[ICEMConfig]):
    """CEM for small budgets: coloured noise, elites that stay, fewer candidates as the distribution narrows.

    The answer is the best candidate of all iterations. The mean is a candidate in the last iteration only (earlier it
    would narrow the search too soon). Iteration i has max(2 · elites, S · γ^−(i−1)) candidates, at most S.

    Differences from the paper: the elites that stay are among these candidates, not on top of them; the blocks that
    re-planning appends to mean and elites are the training data's mean action, not a repetition or a draw.
    """

    name = "icem"

    def __init__(self, config: ICEMConfig | None = None) -> None:
        super().__init__(config or ICEMConfig())

    def begin(self, sampler: Sampler, centre: Array) -> Search:
        """See :class:`jepakit.planning.search.IterativeSolver`."""
        return _ICEMSearch(self.config, sampler, centre)

    def count(self, number: int) -> int:
        """See :class:`jepakit.planning.search.IterativeSolver`."""
        config = self.config
        return min(config.samples, max(2 * config.elites, round(config.samples * config.shrink ** (1 - number))))


class _ICEMSearch(Search):
    std: Array

    def __init__(self, config: ICEMConfig, sampler: Sampler, centre: Array) -> None:
        super().__init__(sampler, centre)
        self.needed = config.elites
        self.std = np.ones_like(centre)
        self._mean = centre.copy()
        self._kept = centre[None][:0]
        self._config = config
        self._left = config.iterations

    def propose(self, out: Array) -> None:
        self.sampler.draw(self._mean, self.std, out)
        stay = len(self._kept)
        out[:stay] = self._kept
        if self._left == 1:
            out[-1] = self._mean

    def learn(self, scored: Scored) -> None:
        self.keep_best(scored)
        chosen = np.argsort(scored.costs, kind="stable")[: self._config.elites]
        elites = scored.candidates[chosen]
        self._kept = elites[: math.ceil(self._config.kept * len(elites))].copy()
        old = np.float32(self._config.momentum)
        mean, std = refit(elites)
        self._mean = self.sampler.clip(old * self._mean + (1 - old) * mean)
        self.std = old * self.std + (1 - old) * std
        self._left -= 1

    def guesses(self) -> Array:
        """Return the mean and the elites that stay."""
        return np.concatenate([self._mean[None], self._kept])
