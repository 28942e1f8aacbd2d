"""No search at all: do what a controller proposes.

Shapes: B environments, M guesses, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jepakit.planning.solver import Array, CostFunction, SearchSpace, Solution


class Follow:
    """A :class:`jepakit.planning.solver.Solver` that answers with the first guess, within the bounds.

    Nothing is imagined, so what the plan costs is not known: NaN.
    """

    needs_gradients: ClassVar[bool] = False

    def solve(
        self,
        cost: CostFunction,
        space: SearchSpace,
        *,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """See :class:`jepakit.planning.solver.Solver`; raises ``ValueError`` without a guess."""
        if initial is None:
            raise ValueError(
                "initial plan: found none, expected a controller's; give the planner a backend with a controller"
            )
        guesses = initial[:, None] if initial.ndim == 3 else initial
        actions = np.clip(guesses[:, 0], space.low, space.high)
        unknown = np.full(len(rngs), np.nan, np.float32)
        return Solution(actions=actions, cost=unknown, iterations=0, stop="iterations", guesses=guesses)

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.solver.Solver`."""
        return {"name": "controller"}
