"""What every solver is given and what it answers.

Solvers search in the *standardised* action space, ``z = (a − mean) / std`` per column of an action block, so that
mean 0 and standard deviation 1 describe the actions of the training data.

Shapes: B environments, S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Standardised candidates ``(B, S, K, A)`` to costs ``(B, S)``. The candidates are a buffer that the solver
#: overwrites in its next iteration: keep a copy, not the array.
CostFunction = Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The action sequences a solver may propose: ``horizon`` blocks of ``frame_skip`` raw actions.

    ``low`` and ``high`` ``(A,)`` are bounds in standardised units, infinite where there is none.
    """

    horizon: int
    frame_skip: int
    low: Array
    high: Array

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon: found {self.horizon}, expected at least 1 block")
        if self.low.ndim != 1 or self.low.shape != self.high.shape:
            raise ValueError(f"bounds: found shapes {self.low.shape} and {self.high.shape}, expected twice (A,)")
        if self.frame_skip < 1 or self.width % self.frame_skip:
            raise ValueError(
                f"frame_skip: found {self.frame_skip}, expected a divisor of the action-block width {self.width}"
            )

    @property
    def width(self) -> int:
        """Return the action-block width A: the raw actions of one block, concatenated in time."""
        return int(self.low.shape[0])

    @property
    def bounded(self) -> bool:
        """Tell whether any action has a bound."""
        return bool(np.isfinite([self.low, self.high]).any())


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A solver's answer: standardised ``actions (B, K, A)``, its estimate of their ``cost (B,)``, work done."""

    actions: Array
    cost: Array
    iterations: int


class Solver(Protocol):
    """Minimises a cost over action sequences, for every environment by itself."""

    def solve(
        self,
        cost: CostFunction,
        space: SearchSpace,
        *,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """Search ``space`` for each of ``B = len(rngs)`` environments.

        Environment ``b`` draws from ``rngs[b]`` only, so its answer does not depend on its neighbours. ``initial``
        ``(B, K, A)`` is a standardised guess to start from. After ``deadline`` (a ``time.monotonic()`` value) no new
        iteration starts; the first one always runs.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return its name and settings as JSON-ready values, for the record of a result."""
        ...
