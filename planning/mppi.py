"""Model-predictive path integral control (Williams et al. 2017, "Information theoretic MPC", arXiv 1707.02342).

Shapes: S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepakit.planning.search import IterativeSolver, Sampler, Scored, Search, SearchConfig
from jepakit.planning.solver import Array

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class MPPIConfig(SearchConfig):
    """Settings of :class:`MPPI`. For the others see ``SearchConfig``.

    Args:
        temperature: λ, in standard deviations of an iteration's costs, because distances between latents have no unit
            that would be the same for two models. Towards 0 the best candidate counts alone, towards ∞ all alike.
        std: standard deviation of the candidates around the mean, in that of the training actions.

    """

    temperature: float = 0.1
    std: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("temperature", self.temperature > 0.0, "more than 0")
        self._require("std", self.std > 0.0, "more than 0")


class MPPI(IterativeSolver[MPPIConfig]):
    """Average the candidates with weights exp(−cost / λ), and sample around the average again.

    Sample 0 of every iteration is the current mean. ``Solution.cost`` is the weighted mean of the last costs. The
    paper's term for the control effort is left to the objective (``ActionPenalty``).
    """

    name = "mppi"

    def __init__(self, config: MPPIConfig | None = None) -> None:
        super().__init__(config or MPPIConfig())

    def begin(self, sampler: Sampler, centre: Array) -> Search:
        """See :class:`jepakit.planning.search.IterativeSolver`."""
        return _MPPISearch(self.config, sampler, centre)


class _MPPISearch(Search):
    def __init__(self, config: MPPIConfig, sampler: Sampler, centre: Array) -> None:
        super().__init__(sampler, centre)
        self._config = config

    def propose(self, out: Array) -> None:
        self.sampler.draw(self.best, np.float32(self._config.std), out)
        out[0] = self.best

    def learn(self, scored: Scored) -> None:
        weights = path_weights(scored.costs, self._config.temperature)
        used = weights > 0  # the others may cost ∞, and 0 · ∞ is no number
        self.cost = float(np.add.reduce(weights[used] * scored.costs[used]))
        self.best = self.sampler.clip(np.add.reduce(weights[:, None] * scored.candidates, axis=0))


def path_weights(costs: Array, temperature: float) -> Array:
    """Return weights ``(S,)`` ∝ exp(−(costs − min) / (temperature · std)) of costs that are finite or +∞.

    ``std`` is that of the finite costs; where all are equal, so are their weights.
    """
    finite = np.isfinite(costs)
    scale = temperature * float(costs[finite].std())
    excess = np.where(finite, costs - costs.min(), np.float32(np.inf))
    weights: Array = np.exp(-excess / np.float32(scale)) if scale > _TINY else finite.astype(np.float32)
    weights /= np.add.reduce(weights)
    return weights
