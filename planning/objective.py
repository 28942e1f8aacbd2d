"""From the model's distance to the goal at every step of a plan to one number per plan.

Shapes: B environments, S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jepakit.planning.solver import Array


class Objective(Protocol):
    """What a plan costs."""

    def __call__(self, step_costs: Array, candidates: Array) -> Array:
        """Reduce ``step_costs`` ``(B, S, K)`` of raw ``candidates`` ``(B, S, K, A)`` to costs ``(B, S)``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return its name and settings as JSON-ready values, for the record of a result."""
        ...


@dataclass(frozen=True, kw_only=True)
class GoalDistance:
    """The model's distance to the goal, over the steps of the plan.

    ``last`` is the paper's: the plan is judged by where it ends. Success counts at *any* step, so a planner that
    re-plans early procrastinates under ``last`` (the goal stays a full horizon away); ``min`` judges the closest step,
    ``mean`` asks for an early arrival.
    """

    steps: Literal["last", "min", "mean"] = "last"

    def __post_init__(self) -> None:
        if self.steps not in ("last", "min", "mean"):
            raise ValueError(f"GoalDistance.steps: found {self.steps!r}, expected 'last', 'min' or 'mean'")

    def __call__(self, step_costs: Array, candidates: Array) -> Array:
        """See :class:`Objective`; the candidates themselves cost nothing."""
        if self.steps == "last":
            return step_costs[..., -1]
        costs: Array = step_costs.min(axis=-1) if self.steps == "min" else step_costs.mean(axis=-1)
        return costs

    def describe(self) -> dict[str, Any]:
        """See :class:`Objective`."""
        return {"name": "goal_distance", "steps": self.steps}
