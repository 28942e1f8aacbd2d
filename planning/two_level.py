"""Planning on two time scales: macro-actions choose where to be soon, the planner below gets there.

Needs NumPy only.

Shapes: B tasks in lock-step, N latent tokens, D latent width, K macro-actions, M macro-action width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jepakit.planning.backend import ImaginingBackend
from jepakit.planning.cem import CEM, CEMConfig
from jepakit.planning.mpc import MPCPolicy, Rows
from jepakit.planning.planner import Observation, Plan, Planner
from jepakit.planning.policies import Action, Assignment, View
from jepakit.planning.solver import Array


@dataclass(frozen=True, kw_only=True)
class TwoLevelConfig:
    """Settings of :class:`TwoLevelPolicy`; times in environment steps.

    Args:
        offset: how far the goal is thought to be at the start; it comes nearer with every step.
        replan: steps between two searches for a subgoal: a multiple of the world model's frame skip.
        cem: the search for macro-actions.

    """

    offset: int = 50
    replan: int = 25
    cem: CEMConfig = field(default_factory=lambda: CEMConfig(samples=128, iterations=6, elites=16))

    def __post_init__(self) -> None:
        for name in ("offset", "replan"):
            if getattr(self, name) < 1:
                raise ValueError(f"TwoLevelConfig.{name}: found {getattr(self, name)}, expected at least 1")


class TwoLevelPolicy(MPCPolicy):
    """Plans macro-actions to the goal, imagines where the first one leads, and makes that the goal of ``low``.

    A goal that is no farther than one macro-action is aimed at itself. ``low`` keeps its settings and its controller,
    which is told how far each subgoal is.

    Args:
        low: the policy below; it must not be used elsewhere.
        coarse: the world in macro-actions, with the latents of ``low``'s.
        reach: environment steps of a macro-action.
        config: how far the goal is, and how macro-actions are found.

    """

    def __init__(
        self, low: MPCPolicy, coarse: ImaginingBackend, *, reach: int, config: TwoLevelConfig | None = None
    ) -> None:
        self.levels = config or TwoLevelConfig()
        self.coarse = coarse
        self.reach = reach
        fine = low.planner.backend.spec
        latents = [(spec.image_size, spec.tokens, spec.width) for spec in (fine, coarse.spec)]
        if latents[0] != latents[1]:
            raise ValueError(
                f"coarse: found picture, tokens and width {latents[1]}, expected those of the world model below, "
                f"{latents[0]}; train the macro-action model on its latents"
            )
        if self.levels.replan % fine.frame_skip:
            raise ValueError(
                f"TwoLevelConfig.replan: found {self.levels.replan}, expected a multiple of the frame skip, "
                f"{fine.frame_skip}"
            )
        if not low.planner.objective.needs_goal:
            raise ValueError("objective: found one without a goal picture, expected a distance to the subgoals")
        self.high = Planner(coarse, CEM(self.levels.cem), bounded=True)
        super().__init__(low.planner, low.config, proposals=low.proposals)

    def reset(self, assignments: Sequence[Assignment], budget: int) -> None:
        """See :class:`jepakit.planning.policies.Policy`."""
        super().reset(assignments, budget)
        self._final = None if self._goals is None else self._goals.copy()

    def expect(self, offset: int | None) -> None:
        """Take the goal to be ``offset`` steps away now, by default ``TwoLevelConfig.offset``; look for a subgoal."""
        super().expect(offset)  # until there is a subgoal
        self._due_far = self._step + (offset or self.levels.offset)
        self._look = self._step  # the step after which a new subgoal is looked for

    def act(self, views: Sequence[View], active: Sequence[int], *, deadline: float | None = None) -> Action:
        """See :class:`jepakit.planning.MPCPolicy`; a new subgoal every ``replan`` steps, until the goal is near.

        The search for it takes at most half of the time until ``deadline``.
        """
        if self._phase == 0 and self._step >= self._look:
            rows = np.asarray(active, dtype=np.intp)
            half = None if deadline is None else (time.monotonic() + deadline) / 2
            self.aim(self._subgoals(views, rows, half), rows, offset=min(self.reach, self._left))
            self._look = self._step + self.levels.replan
        return super().act(views, active, deadline=deadline)

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.policies.Policy`."""
        return {**super().describe(), "name": "two_level", "reach": self.reach, "two_level": asdict(self.levels)}

    def rehearsal(self, view: View, assignment: Assignment) -> Callable[[], Plan]:
        """As :class:`jepakit.planning.MPCPolicy` does, for the dearest decision: one that looks for a subgoal, too."""
        below = super().rehearsal(view, assignment)
        if self.levels.offset <= self.reach:
            return below
        goal = self.high.encode_goal(assignment.goal_frame[None], assignment.goal_proprio[None])
        rng = np.random.default_rng(0)

        def plan() -> Plan:
            seen = self.high.encode(view.render()[None, None], view.proprio[None, None])
            self._first(seen, goal, [rng], left=self.levels.offset)
            return below()

        return plan

    @property
    def _left(self) -> int:
        """How far the goal is thought to be now, in environment steps."""
        return max(self._due_far - self._step, 1)

    def _subgoals(self, views: Sequence[View], rows: Rows, deadline: float | None) -> Array:
        """Return latents ``(B, N, D)`` to go for now."""
        assert self._final is not None  # the objective needs goals
        goals: Array = self._final[rows]
        if self._left <= self.reach:
            return goals
        seen = self.high.encode(
            np.stack([view.render() for view in views])[:, None], np.stack([view.proprio for view in views])[:, None]
        )
        rngs = [self._rngs[row] for row in rows]
        return self._first(seen, goals, rngs, left=self._left, deadline=deadline)

    def _first(
        self,
        seen: Array,
        goals: Array,
        rngs: list[np.random.Generator],
        *,
        left: int,
        deadline: float | None = None,
    ) -> Array:
        """Return where the first of the best macro-actions leads ``(B, N, D)``, seen from ``(B, 1, N, D)``.

        The goals are ``left`` environment steps away.
        """
        observation = Observation(
            latents=seen, past_actions=np.empty((len(seen), 0, self.coarse.spec.block_width), np.float32)
        )
        horizon = -(-left // self.reach)
        plan = self.high.plan(observation, goals, horizon=horizon, rngs=rngs, deadline=deadline)
        imagined = self.coarse.imagine(seen, observation.past_actions, plan.actions[:, None, :1])
        first: Array = imagined[:, 0, 0]
        return first
