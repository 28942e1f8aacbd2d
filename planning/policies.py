"""What acts in an environment: one small protocol, and the baselines every planner is compared with.

Shapes: B tasks in lock-step, C raw action width, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Action = NDArray[np.float32]


class View(Protocol):
    """What a policy may look at; every :class:`jepakit.envs.base.GoalEnv` is one."""

    @property
    def state(self) -> NDArray[Any]:
        """Return the simulator's state, for scripted policies only."""
        ...

    @property
    def proprio(self) -> NDArray[Any]:
        """Return what a robot would feel by itself, ``(P,)``."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """Draw the current picture ``(h, w, 3)``; on demand, because not every policy looks at every step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One task as a policy sees it: start and goal states, picture and proprioception at the goal, its randomness.

    The picture is ``(h, w, 3)``, proprioception ``(P,)``.
    """

    state: NDArray[Any]
    goal_state: NDArray[Any]
    goal_frame: NDArray[np.uint8]
    goal_proprio: NDArray[Any]
    rng: np.random.Generator


class Policy(Protocol):
    """Acts in B tasks in lock-step; tasks drop out when they are solved."""

    def reset(self, assignments: Sequence[Assignment], budget: int) -> None:
        """Begin B new tasks of at most ``budget`` raw actions each."""
        ...

    def act(self, views: Sequence[View], active: Sequence[int]) -> Action:
        """Return the next raw actions ``(len(active), C)`` of the assignments ``active``, which see ``views``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return its name and settings as JSON-ready values, for the record of a result."""
        ...


class RandomPolicy:
    """Independent actions from one distribution, drawn from each task's own generator."""

    def __init__(self, draw: Callable[[np.random.Generator], NDArray[Any]], settings: dict[str, Any]) -> None:
        self._draw = draw
        self._settings = settings
        self._rngs: list[np.random.Generator] = []

    @classmethod
    def uniform(cls, low: ArrayLike, high: ArrayLike) -> RandomPolicy:
        """Draw uniformly between the bounds ``(C,)``."""
        lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
        if lower.shape != upper.shape or not np.isfinite([lower, upper]).all() or not (lower < upper).all():
            raise ValueError(
                f"action bounds: found low {lower.tolist()} and high {upper.tolist()}, expected finite low < high"
            )
        settings = {"distribution": "uniform", "low": lower.tolist(), "high": upper.tolist()}
        return cls(partial(_uniform, lower, upper), settings)

    @classmethod
    def normal(cls, mean: ArrayLike, std: ArrayLike) -> RandomPolicy:
        """Draw Gaussians with the data's ``mean`` and ``std`` ``(C,)``: random actions of the demonstrations' scale."""
        centre, scale = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if centre.shape != scale.shape or not (scale > 0).all():
            raise ValueError(
                f"action statistics: found mean {centre.tolist()} and std {scale.tolist()}, expected std > 0"
            )
        settings = {"distribution": "normal", "mean": centre.tolist(), "std": scale.tolist()}
        return cls(partial(_normal, centre, scale), settings)

    def reset(self, assignments: Sequence[Assignment], budget: int) -> None:
        """See :class:`Policy`."""
        self._rngs = [assignment.rng for assignment in assignments]

    def act(self, views: Sequence[View], active: Sequence[int]) -> Action:
        """See :class:`Policy`."""
        return np.stack([self._draw(self._rngs[index]) for index in active]).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """See :class:`Policy`."""
        return {"name": "random", **self._settings}


def _uniform(
    low: NDArray[Any], high: NDArray[Any], rng: np.random.Generator
) -> NDArray[Any]:  # importable, for worker processes
    return rng.uniform(low, high)


def _normal(mean: NDArray[Any], std: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return rng.normal(mean, std)


class StayPolicy:
    """Does nothing: what the environment solves by itself."""

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim

    def reset(self, assignments: Sequence[Assignment], budget: int) -> None:
        """See :class:`Policy`."""

    def act(self, views: Sequence[View], active: Sequence[int]) -> Action:
        """See :class:`Policy`."""
        return np.zeros((len(active), self.action_dim), np.float32)

    def describe(self) -> dict[str, Any]:
        """See :class:`Policy`."""
        return {"name": "stay"}


class StateController(Protocol):
    """One episode's scripted policy; every :class:`jepakit.envs.base.ScriptedPolicy` is one."""

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Begin an episode."""
        ...

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Return the next raw action ``(C,)``."""
        ...


class Scripted:
    """Plays a scripted policy that reads the simulator's state: a ceiling rather than a competitor."""

    def __init__(self, make_controller: Callable[[], StateController]) -> None:
        self._make_controller = make_controller
        self._controllers: list[StateController] = []

    def reset(self, assignments: Sequence[Assignment], budget: int) -> None:
        """See :class:`Policy`."""
        self._controllers = [self._make_controller() for _ in assignments]
        for controller, assignment in zip(self._controllers, assignments, strict=True):
            controller.reset(assignment.state, assignment.goal_state, assignment.rng)

    def act(self, views: Sequence[View], active: Sequence[int]) -> Action:
        """See :class:`Policy`."""
        actions = [self._controllers[index].act(view.state) for view, index in zip(views, active, strict=True)]
        return np.stack(actions).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """See :class:`Policy`."""
        return {"name": "scripted"}
