"""What every solver is given and what it answers.

Solvers search in the *standardised* action space, ``z = (a − mean) / std`` per column of an action block, so that
mean 0 and standard deviation 1 describe the actions of the training data.

Shapes: B environments, M guesses, S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Standardised candidates ``(B, S, K, A)`` to costs ``(B, S)``. The candidates are a buffer that the solver
#: overwrites in its next iteration: keep a copy, not the array.
CostFunction = Callable[[Array], Array]

#: Why a search ended: all iterations done, every environment converged, or the deadline passed.
Stop = Literal["iterations", "converged", "deadline"]


@runtime_checkable
class DifferentiableCost(Protocol):
    """A cost function that also knows its slope; what solvers with ``needs_gradients`` are given."""

    def __call__(self, candidates: Array) -> Array:
        """See ``CostFunction``."""
        ...

    def with_gradient(self, candidates: Array) -> tuple[Array, Array]:
        """Return costs ``(B, S)`` and their gradients ``(B, S, K, A)`` with respect to standardised candidates."""
        ...


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
    """A solver's answer: standardised ``actions (B, K, A)``, its estimate of their ``cost (B,)``, work done.

    ``guesses (B, M, K, A)`` is what the solver would like to start its next search from: first the plan to search
    around, then plans worth trying again.
    """

    actions: Array
    cost: Array
    iterations: int
    stop: Stop
    guesses: Array


class Solver(Protocol):
    """Minimises a cost over action sequences, for every environment by itself."""

    needs_gradients: ClassVar[bool]

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
        is a standardised guess ``(B, K, A)`` to start from, or several, ``(B, M, K, A)``. After ``deadline`` (a
        ``time.monotonic()`` value) no new iteration starts; the first one always runs.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return its name and settings as JSON-ready values, for the record of a result."""
        ...
