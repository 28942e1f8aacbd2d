"""The closed loop: a policy acts in the environment until the goal is met or the budget is spent.

Shapes: D state entries, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepakit.planning.evaluation.manifest import Task
from jepakit.planning.policies import Assignment, Policy

Frames = NDArray[np.uint8]


class Environment(Protocol):
    """What the loop needs of an environment; every :class:`jepakit.envs.base.GoalEnv` has it."""

    @property
    def state(self) -> NDArray[Any]:
        """Return the simulator's state ``(D,)``."""
        ...

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> object:
        """Start from ``options["state"]`` towards ``options["goal"]``."""
        ...

    def advance(self, action: NDArray[np.float32]) -> None:
        """Apply one raw action."""
        ...

    def render(self) -> Frames:
        """Draw the current picture ``(h, w, 3)``."""
        ...

    @property
    def proprio(self) -> NDArray[Any]:
        """Return what a robot would feel by itself, ``(P,)``."""
        ...

    def proprio_of(self, state: NDArray[Any]) -> NDArray[Any]:
        """Return the same of another state."""
        ...

    def picture(self, state: NDArray[Any]) -> Frames:
        """Draw the picture ``(h, w, 3)`` of another state."""
        ...

    def distance(self, state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Return the distance to the goal in units of the success criterion: success is below 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one task went: ``steps`` to success (``None`` if it failed) and the last distance to the goal.

    The distance is in units of the success criterion. ``jerk`` is the mean norm of the raw actions' second difference,
    a_t − 2 a_{t−1} + a_{t−2}, ``None`` for fewer than three actions.
    """

    task: int
    success: bool
    steps: int | None
    final_distance: float
    jerk: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one task looked like: the goal's picture ``(h, w, 3)``, and ``frames (steps + 1, h, w, 3)``."""

    task: int
    goal: Frames
    frames: Frames


@dataclass(frozen=True, kw_only=True)
class Run:
    """One policy on one task list: an outcome per task, in their order, and the recordings asked for."""

    outcomes: tuple[Outcome, ...]
    recordings: tuple[Recording, ...]


def run_policy(
    policy: Policy,
    make_environment: Callable[[], Environment],
    tasks: Sequence[Task],
    *,
    seed: int,
    budget: int,
    batch_size: int | None = None,
    record: Collection[int] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> Run:
    """Let ``policy`` try every task for at most ``budget`` raw actions.

    ``batch_size`` tasks go in lock-step (all by default). Each task's randomness derives from ``(seed, task.id)``
    alone, so an outcome does not depend on the batch size, nor on which other tasks are run, nor in which process.
    ``record`` names the task ids to keep pictures of; ``on_step(done, total)`` reports progress. Raises ``ValueError``
    when a task is solved from the start: the list was drawn for another environment.
    """
    size = batch_size or max(1, len(tasks))
    groups = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    environments = [make_environment() for _ in range(min(size, len(tasks)))]
    outcomes: list[Outcome] = []
    recordings: list[Recording] = []
    for number, group in enumerate(groups):
        trials = [
            _Trial(task, environment, seed, task.id in record)
            for task, environment in zip(group, environments, strict=False)
        ]
        policy.reset([trial.assignment for trial in trials], budget)
        for step in range(budget):
            active = [index for index, trial in enumerate(trials) if not trial.solved]
            if not active:
                break
            actions = policy.act([trials[index].environment for index in active], active)
            for index, action in zip(active, actions, strict=True):
                trials[index].advance(action)
            if on_step is not None:
                on_step(number * budget + step + 1, len(groups) * budget)
        outcomes += [trial.outcome() for trial in trials]
        recordings += [trial.recording() for trial in trials if trial.task.id in record]
    if on_step is not None:
        on_step(len(groups) * budget, len(groups) * budget)
    return Run(outcomes=tuple(outcomes), recordings=tuple(recordings))


def assign(environment: Environment, state: NDArray[Any], goal: NDArray[Any], rng: np.random.Generator) -> Assignment:
    """Build the assignment of one task: what its goal looks and feels like."""
    return Assignment(
        state=state,
        goal_state=goal,
        goal_frame=environment.picture(goal),
        goal_proprio=environment.proprio_of(goal),
        rng=rng,
    )


class _Trial:
    """One task being tried in one environment."""

    def __init__(self, task: Task, environment: Environment, seed: int, record: bool) -> None:
        self.task = task
        self.environment = environment
        self._steps = 0
        start, self._goal = np.asarray(task.state), np.asarray(task.goal_state)
        for_policy, for_environment = np.random.SeedSequence([seed, task.id]).spawn(2)
        environment.reset(seed=int(for_environment.generate_state(1)[0]), options={"state": start, "goal": self._goal})
        self._actions: list[NDArray[np.float32]] = []
        self._distance = float(environment.distance(environment.state, self._goal))
        if self.solved:
            raise ValueError(
                f"task {task.id}: found a start at distance {self._distance:.3f} from its goal, expected at least 1 "
                "(unsolved); the task list does not fit this environment, draw a new one"
            )
        self.assignment = assign(environment, start, self._goal, np.random.default_rng(for_policy))
        self._frames = [environment.render()] if record else None

    @property
    def solved(self) -> bool:
        return self._distance < 1.0

    def advance(self, action: NDArray[np.float32]) -> None:
        if not np.isfinite(action).all():
            raise ValueError(f"task {self.task.id}: found action {action.tolist()}, expected finite numbers")
        self.environment.advance(action)
        self._actions.append(np.array(action))
        self._steps += 1
        self._distance = float(self.environment.distance(self.environment.state, self._goal))
        if self._frames is not None:
            self._frames.append(self.environment.render())

    def outcome(self) -> Outcome:
        steps = self._steps if self.solved else None
        jerk = None
        if len(self._actions) > 2:
            jerk = float(np.linalg.norm(np.diff(np.stack(self._actions), n=2, axis=0), axis=1).mean())
        return Outcome(task=self.task.id, success=self.solved, steps=steps, final_distance=self._distance, jerk=jerk)

    def recording(self) -> Recording:
        return Recording(task=self.task.id, goal=self.assignment.goal_frame, frames=np.stack(self._frames or []))
