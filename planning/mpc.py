"""Model-predictive control: plan, execute some blocks, look again, re-plan.

Shapes: B tasks in lock-step, H history frames, N latent tokens, D latent width, K horizon in blocks, M guesses,
F frame skip, C raw action width, A = F·C action-block width, h and w pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.planning.backend import Frames
from jepakit.planning.planner import Observation, Plan, Planner
from jepakit.planning.policies import Action, Assignment, View
from jepakit.planning.solver import Array

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class MPCConfig:
    """Settings of :class:`MPCPolicy`; the defaults are the LeWM paper's, with the trained history.

    Args:
        horizon: blocks per plan, K.
        execute_blocks: blocks executed before the next plan.
        arrival: environment steps in which the goal should be reached: the horizon shrinks towards that moment, and
            a goal that is missed is due again ``horizon`` blocks later. Without, every plan ends that much later.
        warm_start: start a search from what the last one left unexecuted: its plan and, for iCEM, its elites.
        history: real frames the model looks back on; by default as many as it was trained with.

    """

    horizon: int = 5
    execute_blocks: int = 5
    arrival: int | None = None
    warm_start: bool = False
    history: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.execute_blocks <= self.horizon:
            raise ValueError(
                f"MPCConfig.execute_blocks: found {self.execute_blocks}, expected 1 to horizon = {self.horizon}"
            )
        if self.arrival is not None and self.arrival < 1:
            raise ValueError(f"MPCConfig.arrival: found {self.arrival}, expected at least 1 environment step")


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """How a controller is asked for plans; in environment steps.

    Args:
        offset: how far the goal is thought to be at the start; it comes nearer with every step.
        least_offset: how near it is thought to be at least, and again and again, until it is reached.

    """

    offset: int = 25
    least_offset: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.least_offset <= self.offset:
            raise ValueError(
                f"ProposalConfig.least_offset: found {self.least_offset}, expected 1 to offset = {self.offset}"
            )

    def at(self, step: int) -> int:
        """Return the offset after ``step`` steps, below 0 while the goal is farther than that."""
        return max(self.offset - max(step, 0), self.least_offset)


@dataclass(frozen=True)
class _Memory:
    """One task's past: its last frames with proprioception (encoded when needed) and the blocks between them."""

    sights: deque[tuple[Frames, NDArray[Any]]] = field(default_factory=deque)
    latents: deque[Array] = field(default_factory=deque)
    blocks: deque[Array] = field(default_factory=deque)


class MPCPolicy:
    """Acts by planning with a world model.

    The model sees real past frames, one per block boundary, and the blocks executed between them: one frame at the
    start, growing to the trained history. Every goal is encoded once, and so is every frame unless the encoder needs
    the whole history together. With ``proposals``, every search starts also from what the backend's controller says.
    """

    def __init__(
        self, planner: Planner, config: MPCConfig | None = None, *, proposals: ProposalConfig | None = None
    ) -> None:
        self.planner = planner
        self.config = config or MPCConfig()
        self.proposals = proposals
        trained = planner.backend.spec.history
        self.history = trained if self.config.history is None else self.config.history
        if not 1 <= self.history <= trained:
            raise ValueError(f"MPCConfig.history: found {self.history}, expected 1 to {trained} (the trained history)")
        planner.check_horizon(self.config.horizon)
        if proposals is not None:
            planner.check_offset(proposals.offset)
        self.reset([], budget=0)

    def reset(self, assignments: Sequence[Assignment], budget: int) -> None:
        """See :class:`jepakit.planning.policies.Policy`; encodes the goals, and changes nothing if that fails."""
        spec = self.planner.backend.spec
        goals: Array | None = None
        if assignments and self.planner.objective.needs_goal:
            goals = self.planner.encode_goal(
                np.stack([assignment.goal_frame for assignment in assignments]),
                np.stack([assignment.goal_proprio for assignment in assignments]),
            )
        self._goals = goals
        self._step = self._phase = 0  # actions taken; of them, those of the block that is under way
        self._aimed = False
        self.expect(None)
        self._rngs = [assignment.rng for assignment in assignments]
        self._memories = [_Memory() for _ in assignments]
        self._plan = np.empty((len(assignments), 0, spec.block_width), np.float32)
        self._guesses: Array | None = None
        self._executed = 0
        self.last_plan: Plan | None = None

    def act(self, views: Sequence[View], active: Sequence[int], *, deadline: float | None = None) -> Action:
        """See :class:`jepakit.planning.policies.Policy`; plans at block boundaries where the last plan is used up.

        ``deadline`` is that of :meth:`jepakit.planning.Planner.plan`.
        """
        spec = self.planner.backend.spec
        rows = np.asarray(active, dtype=np.intp)
        offset = self._phase
        if offset == 0:
            self._remember(views, rows)
            if self._aimed or self._executed == min(self.config.execute_blocks, self._plan.shape[1]):
                self._replan(rows, deadline)
            self._executed += 1
        self._step += 1
        self._phase = (offset + 1) % spec.frame_skip
        self._last = rows, slice(offset * spec.action_dim, (offset + 1) * spec.action_dim)
        return self._plan[rows, self._executed - 1, self._last[1]]

    def done(self, actions: Action) -> None:
        """Note what was done, (len(active), C), in place of what :meth:`act` has just returned: clipped, perhaps."""
        rows, columns = self._last
        self._plan[rows, self._executed - 1, columns] = actions

    def aim(self, goals: Array, rows: Rows, *, offset: int | None = None) -> None:
        """Go for other goals from the next block boundary on: latents ``(len(rows), N, D)`` of the tasks ``rows``.

        They are ``offset`` environment steps away, as :meth:`expect` has it.
        """
        if self._goals is None:
            raise ValueError("goals: found none to replace, expected an objective that needs them")
        self._goals[rows] = goals
        self._aimed = True
        self._expect(offset)

    def expect(self, offset: int | None) -> None:
        """Take the goals to be ``offset`` environment steps away now; by default as many as the settings say.

        A controller is told that, at most as many as ``proposals`` says until they are nearer, and the horizon shrinks
        towards it if the settings have an ``arrival``. Raises ``ValueError`` for less than 1.
        """
        if offset is not None and offset < 1:
            raise ValueError(f"offset: found {offset}, expected at least 1 environment step")
        self._expect(offset)

    def forget(self, *, unsent: int = 0) -> None:
        """Drop the plan and what was seen, because the robot did something else; the next action begins a new plan.

        The goals stay, and so does how far away they are thought to be: a robot that stands still comes no nearer. The
        last ``unsent`` actions, which were not executed, do not count as steps towards them.
        """
        self._memories = [_Memory() for _ in self._memories]
        self._plan = self._plan[:, :0]
        self._guesses = None
        self._executed = self._phase = 0
        self._step -= unsent

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.policies.Policy`."""
        trained = self.planner.backend.spec.history
        settings = {**asdict(self.config), "history": self.history, "trained_history": trained}
        settings["proposals"] = None if self.proposals is None else asdict(self.proposals)
        return {"name": "mpc", **settings, **self.planner.describe()}

    def proposed(self, observation: Observation, goals: Array | None, horizon: int, *, step: int = 0) -> Array | None:
        """Return what the controller proposes ``(B, M, K, A)`` after ``step`` steps; ``None`` if it is not asked.

        ``goals`` are latents ``(B, N, D)``; raises ``ValueError`` without them.
        """
        if self.proposals is None:
            return None
        if goals is None:
            raise ValueError("controller: found no goal, expected one: the controller drives to goal pictures")
        offset = self.proposals.at(step)
        return self.planner.propose(observation.latents[:, -1], goals, offset=offset, horizon=horizon)

    def rehearsal(self, view: View, assignment: Assignment) -> Callable[[], Plan]:
        """Return a call that plans once for a single environment with a full history, to be timed.

        The call encodes what ``view`` shows now and searches; older frames and the goal are encoded here, as they are
        when the policy acts (an encoder that needs the whole history gets it in the call).
        """
        spec = self.planner.backend.spec
        goal = None
        if self.planner.objective.needs_goal:
            goal = self.planner.encode_goal(assignment.goal_frame[None], assignment.goal_proprio[None])
        sight = view.render()[None, None], view.proprio[None, None]
        new = self.history if spec.whole_history else 1
        older = np.repeat(self.planner.encode(*sight), self.history - new, axis=1)
        sights = [np.repeat(part, new, axis=1) for part in sight]
        blocks = np.repeat(spec.action_mean[None, None], self.history - 1, axis=1)
        rng = np.random.default_rng(0)

        def plan() -> Plan:
            latents = np.concatenate([older, self.planner.encode(*sights)], axis=1)
            observation = Observation(latents=latents, past_actions=blocks)
            initial = self.proposed(observation, goal, self.config.horizon)
            return self.planner.plan(observation, goal, horizon=self.config.horizon, rngs=[rng], initial=initial)

        return plan

    def _expect(self, offset: int | None) -> None:
        arrival = self.config.arrival
        self._due = None if arrival is None else self._step + (offset or arrival)
        self._begun = self._step
        if self.proposals is not None and offset is not None:
            self._begun += offset - self.proposals.offset

    def _remember(self, views: Sequence[View], rows: Rows) -> None:
        """Take in the frame of a block boundary, and the block that led to it."""
        for view, row in zip(views, rows, strict=True):
            memory = self._memories[row]
            if self._executed:
                memory.blocks.append(self._plan[row, self._executed - 1])
            memory.sights.append((view.render(), view.proprio))
            # Frames that have left the history before any plan needed them are never encoded.
            while len(memory.latents) + len(memory.sights) > self.history:
                (memory.latents or memory.sights).popleft()
            while len(memory.blocks) > self.history - 1:
                memory.blocks.popleft()

    def _replan(self, rows: Rows, deadline: float | None) -> None:
        memories = [self._memories[row] for row in rows]
        spec = self.planner.backend.spec
        frames, proprio = (
            np.stack([np.stack([sight[part] for sight in memory.sights]) for memory in memories]) for part in (0, 1)
        )
        latents = self.planner.encode(frames, proprio)
        if not spec.whole_history:
            for memory, fresh in zip(memories, latents, strict=True):
                memory.latents.extend(fresh)
                memory.sights.clear()
            latents = np.stack([np.stack(memory.latents) for memory in memories])
        blocks = [np.reshape(memory.blocks, (-1, spec.block_width)) for memory in memories]
        observation = Observation(latents=latents, past_actions=np.stack(blocks).astype(np.float32))
        horizon = self._horizon()
        goals = None if self._goals is None else self._goals[rows]
        starts = [
            self._left_over(rows, horizon),
            self.proposed(observation, goals, horizon, step=self._step - self._begun),
        ]
        guesses = [guess for guess in starts if guess is not None]
        plan = self.planner.plan(
            observation,
            goals,
            horizon=horizon,
            rngs=[self._rngs[row] for row in rows],
            initial=np.concatenate(guesses[::-1], axis=1) if guesses else None,
            deadline=deadline,
        )
        self.last_plan = plan
        self._plan = np.zeros((len(self._memories), horizon, spec.block_width), np.float32)
        self._plan[rows] = plan.actions
        self._guesses = np.zeros((len(self._memories), *plan.guesses.shape[1:]), np.float32)
        self._guesses[rows] = plan.guesses
        self._executed = 0
        self._aimed = False

    def _horizon(self) -> int:
        most, block = self.config.horizon, self.planner.backend.spec.frame_skip
        if self._due is None:
            return most
        if self._due <= self._step:
            self._due = self._step + most * block
        return min(most, -(-(self._due - self._step) // block))

    def _left_over(self, rows: Rows, horizon: int) -> Array | None:
        """Return what the last search left to start the next one from, ``(B, M, K, A)``."""
        if self._guesses is None or self._aimed or not self.config.warm_start:
            return None
        return self.planner.carry_over(self._guesses[rows], executed=self._executed, horizon=horizon)
