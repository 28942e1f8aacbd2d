"""From what a model imagines of a plan to one number per plan.

Every objective also knows its slope, for solvers that follow it.

Shapes: B environments, S candidates, K horizon in blocks, Q quantities read off the latents, A action-block width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from jepakit.planning.backend import Scores
from jepakit.planning.solver import Array

#: Which steps of a plan count: where it ends, its best step, or all of them.
Steps = Literal["last", "min", "mean"]


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The derivative of costs ``(B, S)`` with respect to all they depend on; ``None`` where they do not.

    ``distance (B, S, K)`` and ``readout (B, S, K, Q)`` are those of ``Scores``, ``candidates (B, S, K, A)`` the raw
    actions themselves (the model's part excluded).
    """

    distance: Array | None = None
    readout: Array | None = None
    candidates: Array | None = None


class Objective(Protocol):
    """What a plan costs. Objectives whose ``needs_goal`` is false plan without a goal picture."""

    @property
    def needs_goal(self) -> bool:
        """Tell whether ``Scores.distance`` matters."""
        ...

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """Return the costs ``(B, S)`` of raw ``candidates`` ``(B, S, K, A)`` with these ``scores``."""
        ...

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """Return the derivative of the costs; arguments as in a call."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return its name and settings as JSON-ready values, for the record of a result."""
        ...


@dataclass(frozen=True, kw_only=True)
class GoalDistance:
    """The model's distance to the goal, over the steps of the plan.

    ``last`` is the LeWM paper's: the plan is judged by where it ends. Success counts at *any* step, so a planner that
    re-plans early procrastinates under ``last`` (the goal stays a full horizon away); ``min`` judges the closest step,
    ``mean`` asks for an early arrival.
    """

    needs_goal = True

    steps: Steps = "last"

    def __post_init__(self) -> None:
        check_steps("GoalDistance", self.steps)

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """See :class:`Objective`; the candidates themselves cost nothing."""
        return over_steps(scores.distance, self.steps)

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """See :class:`Objective`."""
        return Slope(distance=steps_slope(scores.distance, self.steps))

    def describe(self) -> dict[str, Any]:
        """See :class:`Objective`."""
        return {"name": "goal_distance", "steps": self.steps}


class WeightedSum:
    """Several objectives at once: Σ weight · cost. The weights are the user's: a latent distance has no unit.

    Raises ``ValueError`` for no terms at all and for weights that are not positive.
    """

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        self.terms = tuple(terms)
        weights = [weight for weight, _ in self.terms]
        if not weights or not all(np.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"WeightedSum: found weights {weights}, expected at least one, all positive")

    @property
    def needs_goal(self) -> bool:
        """See :class:`Objective`."""
        return any(term.needs_goal for _, term in self.terms)

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """See :class:`Objective`."""
        (weight, first), *others = self.terms
        total: Array = np.float32(weight) * first(scores, candidates)
        for weight, term in others:
            total += np.float32(weight) * term(scores, candidates)
        return total

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """See :class:`Objective`."""
        slopes = [(np.float32(weight), term.slope(scores, candidates)) for weight, term in self.terms]

        def total(part: str) -> Array | None:
            found = [weight * value for weight, slope in slopes if (value := getattr(slope, part)) is not None]
            return sum(found[1:], start=found[0]) if found else None

        return Slope(distance=total("distance"), readout=total("readout"), candidates=total("candidates"))

    def describe(self) -> dict[str, Any]:
        """See :class:`Objective`."""
        terms = [{"weight": weight, **term.describe()} for weight, term in self.terms]
        return {"name": "weighted_sum", "terms": terms}


def check_steps(owner: str, steps: str) -> None:
    """Raise ``ValueError`` unless ``steps`` is one of ``Steps``."""
    if steps not in get_args(Steps):
        raise ValueError(f"{owner}.steps: found {steps!r}, expected 'last', 'min' or 'mean'")


def over_steps(values: Array, steps: Steps) -> Array:
    """Reduce ``values`` ``(B, S, K)`` to ``(B, S)``."""
    if steps == "last":
        return values[..., -1]
    reduced: Array = values.min(axis=-1) if steps == "min" else values.mean(axis=-1)
    return reduced


def steps_slope(values: Array, steps: Steps) -> Array:
    """Return the derivative ``(B, S, K)`` of :func:`over_steps`."""
    if steps == "mean":
        return np.full_like(values, 1.0 / values.shape[-1])
    slope = np.zeros_like(values)
    chosen = np.argmin(values, axis=-1) if steps == "min" else np.full(values.shape[:-1], values.shape[-1] - 1)
    np.put_along_axis(slope, chosen[..., None], 1.0, axis=-1)
    return slope
