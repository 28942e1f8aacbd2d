"""What the actions of a plan cost by themselves.

Shapes: B environments, S candidates, K horizon in blocks, F frame skip, C raw action width, A = F·C action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from jepakit.planning.backend import PlannerSpec, Scores
from jepakit.planning.objective import Slope
from jepakit.planning.solver import Array

Units = Literal["raw", "standardised"]


class ActionPenalty:
    """The mean square of the plan's K·A actions, raw or in standard deviations from the training data's mean.

    ``raw`` is about effort; ``standardised`` keeps plans close to actions that the model has seen.
    """

    needs_goal = False

    def __init__(self, spec: PlannerSpec, *, units: Units = "raw") -> None:
        if units not in get_args(Units):
            raise ValueError(f"ActionPenalty.units: found {units!r}, expected one of {list(get_args(Units))}")
        self.units = units
        standardised = units == "standardised"
        self._mean = spec.action_mean if standardised else np.zeros_like(spec.action_mean)
        self._std = spec.action_std if standardised else np.ones_like(spec.action_std)

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """See :class:`jepakit.planning.Objective`."""
        costs: Array = np.square((candidates - self._mean) / self._std).mean(axis=(2, 3))
        return costs

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """See :class:`jepakit.planning.Objective`."""
        return Slope(candidates=2 * (candidates - self._mean) / (np.square(self._std) * candidates[0, 0].size))

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.Objective`."""
        return {"name": "action_penalty", "units": self.units}


@dataclass(frozen=True)
class SmoothnessPenalty:
    """The mean square of the differences between consecutive raw actions, along all K·F steps of the plan.

    The step from the action before the plan to its first one is not counted.
    """

    needs_goal = False

    action_dim: int

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """See :class:`jepakit.planning.Objective`; a plan of one single action costs nothing."""
        costs: Array = np.square(self._jumps(candidates)).sum(axis=(2, 3)) / self._count(candidates)
        return costs

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """See :class:`jepakit.planning.Objective`."""
        jumps = 2 * self._jumps(candidates) / self._count(candidates)
        # An action is where one jump ends and where the next begins.
        slope = np.zeros((*candidates.shape[:2], jumps.shape[2] + 1, self.action_dim), np.float32)
        slope[:, :, 1:] += jumps
        slope[:, :, :-1] -= jumps
        return Slope(candidates=slope.reshape(candidates.shape))

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.Objective`."""
        return {"name": "smoothness_penalty"}

    def _jumps(self, candidates: Array) -> Array:
        """Return ``(B, S, K·F − 1, C)``."""
        actions = candidates.reshape(*candidates.shape[:2], -1, self.action_dim)
        return actions[:, :, 1:] - actions[:, :, :-1]

    def _count(self, candidates: Array) -> int:
        return max(1, int(candidates[0, 0].size) - self.action_dim)
