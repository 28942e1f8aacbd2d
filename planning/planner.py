"""The planner: a backend that scores action sequences, a solver that searches them, an objective that judges.

Needs NumPy only: the same code plans with PyTorch in the lab and with another engine on the robot.

Shapes: B environments, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon in blocks,
F frame skip, C raw action width, A = F·C action-block width, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jepakit.planning.backend import Backend, DifferentiableBackend, Frames, ProposingBackend
from jepakit.planning.objective import GoalDistance, Objective
from jepakit.planning.solver import Array, SearchSpace, Solver, Stop


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known when planning: ``latents (B, H, N, D)`` of real frames, raw ``past_actions (B, H−1, A)``."""

    latents: Array
    past_actions: Array


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Raw ``actions (B, K, A)``, the solver's estimate of their ``cost (B,)``, its iterations and why it stopped.

    ``guesses (B, M, K, A)``, raw, are what the next plan may start from: see :meth:`Planner.carry_over`.
    """

    actions: Array
    cost: Array
    iterations: int
    stop: Stop
    guesses: Array


class Planner:
    """Finds action blocks that lead from an observation to a goal.

    Args:
        backend: the world model.
        solver: the search, for example :class:`jepakit.planning.CEM`.
        objective: what a plan costs; by default the distance to the goal at its end (the paper's).
        bounded: keep every action within the environment's bounds. The paper does not.

    """

    def __init__(
        self, backend: Backend, solver: Solver, objective: Objective | None = None, *, bounded: bool = False
    ) -> None:
        self.backend = backend
        self.solver = solver
        self.objective = objective or GoalDistance()
        self.bounded = bounded
        self._proposing = backend if isinstance(backend, ProposingBackend) else None  # asked once: it takes its time
        spec = backend.spec
        if solver.needs_gradients and not isinstance(backend, DifferentiableBackend):
            raise TypeError(
                f"solver: found {type(solver).__name__}, which follows gradients, with {type(backend).__name__}, which "
                "has none; plan with TorchBackend, or choose cem, icem, mppi or random_shooting"
            )
        if bounded and not np.isfinite([spec.action_low, spec.action_high]).all():
            raise ValueError(
                f"Planner.bounded: found action bounds {spec.action_low.tolist()} to {spec.action_high.tolist()}, "
                "expected finite ones; set the model's action statistics, or plan unbounded"
            )
        self._low, self._high = (np.tile(bound, spec.frame_skip) for bound in (spec.action_low, spec.action_high))

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, engine: Literal["onnx", "tensorrt"] = "onnx"
    ) -> Planner:
        """Plan with a published model, without PyTorch: fetches a Hub repository's bundle alone.

        ``source`` and errors are those of ``jepakit.export.Bundle.from_pretrained``. The search is the one that
        travels with the bundle, or the paper's; ``Bundle.policy`` gives a whole policy. Raises ``ValueError`` where
        that takes a controller, which only a policy asks.
        """
        from jepakit.export.bundle import Bundle
        from jepakit.export.runtime import open_backend
        from jepakit.planning.settings import PlannerConfig

        bundle = Bundle.from_pretrained(source, revision=revision)
        settings = bundle.planner_config or PlannerConfig()
        if settings.asks_controller:
            raise ValueError(
                f"{source}: found a planner that asks a controller, expected a search alone; "
                "Bundle.from_pretrained(...).policy(backend) plans as published"
            )
        return settings.planner(open_backend(bundle, engine=engine))

    def observe(self, frames: Frames, past_actions: Array | None = None, proprio: Array | None = None) -> Observation:
        """Encode real ``frames`` ``(B, H, h, w, 3)``, oldest first; ``past_actions`` ``(B, H−1, A)`` lie between.

        Models that feel their robot take its raw ``proprio`` ``(B, H, P)``, too.
        """
        if past_actions is None:
            past_actions = np.empty((len(frames), 0, self.backend.spec.block_width), np.float32)
        return Observation(latents=self.encode(frames, proprio), past_actions=past_actions)

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Return latents ``(B, T, N, D)`` of ``(B, T, h, w, 3)`` and, where the model takes it, ``proprio (B, T, P)``.

        Raises ``ValueError`` unless they fit the model, see ``PlannerSpec.check_frames``.
        """
        spec = self.backend.spec
        felt = np.asarray(proprio, np.float32) if spec.proprio and proprio is not None else None
        spec.check_frames(frames, felt)
        return self.backend.encode(frames, felt)

    def encode_goal(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Return latents ``(B, N, D)`` of goal pictures ``(B, h, w, 3)`` (and ``proprio`` ``(B, P)`` at the goal)."""
        return self.encode(frames[:, None], None if proprio is None else proprio[:, None])[:, 0]

    def plan(
        self,
        observation: Observation,
        goal: Array | None = None,
        *,
        horizon: int,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Search for ``horizon`` blocks that lead from ``observation`` to the latents ``goal`` ``(B, N, D)``.

        Without a goal, the objective must not need one (``Objective.needs_goal``).
        ``rngs`` holds one generator per environment: with equal generators an environment's plan does not depend on
        the batch it is planned in. ``initial`` ``(B, K, A)`` or ``(B, M, K, A)`` in raw units warm-starts the search;
        ``deadline`` is a ``time.monotonic()`` value after which no further iteration starts.
        """
        spec = self.backend.spec
        if goal is None:
            if self.objective.needs_goal:
                raise ValueError(
                    "goal: found None, expected latents (B, N, D): the objective is a distance to the goal"
                )
            goal = np.zeros((len(rngs), spec.tokens, spec.width), np.float32)
        self._check(observation, goal, len(rngs))
        self.check_horizon(horizon)
        if initial is not None:
            initial = (initial - spec.action_mean) / spec.action_std
        solution = self.solver.solve(
            _Cost(self, observation, goal), self._space(horizon), rngs=rngs, initial=initial, deadline=deadline
        )
        return Plan(
            actions=self.raw(solution.actions),
            cost=solution.cost,
            iterations=solution.iterations,
            stop=solution.stop,
            guesses=self.raw(solution.guesses),
        )

    def carry_over(self, guesses: Array, *, executed: int, horizon: int) -> Array:
        """Return what is left of raw ``guesses`` ``(B, M, K, A)`` after ``executed`` blocks: the next ``initial``.

        It is cut to ``horizon`` blocks, or continued with the training data's mean action.
        """
        shape = (*guesses.shape[:2], horizon, guesses.shape[3])
        rest = np.broadcast_to(self.backend.spec.action_mean, shape).astype(np.float32)
        left = guesses[:, :, executed : executed + horizon]
        rest[:, :, : left.shape[2]] = left
        return rest

    def propose(self, latents: Array, goal: Array, *, offset: int, horizon: int) -> Array:
        """Return raw plans ``(B, M, K, A)`` of the backend's controller, likeliest first, as an ``initial``.

        ``latents`` and ``goal`` are ``(B, N, D)``, ``offset`` environment steps apart; plans shorter than ``horizon``
        are continued with the training data's mean action. Raises ``ValueError`` as :meth:`check_offset` does.
        """
        backend = self.check_offset(offset)
        steps = np.full(len(latents), offset, np.float32)
        return self.carry_over(backend.propose(latents, goal, steps), executed=0, horizon=horizon)

    def check_offset(self, offset: int) -> ProposingBackend:
        """Return the backend; ``ValueError`` unless it has a controller that knows goals ``offset`` steps away."""
        spec = self.backend.spec
        if self._proposing is None or not spec.proposals:
            raise ValueError(
                "controller: found none in this backend, expected one: give TorchBackend a controller, or export one "
                "with the world model"
            )
        if not 1 <= offset <= spec.max_offset:
            raise ValueError(
                f"controller.offset: found {offset}, expected 1 to {spec.max_offset}, for which the controller was "
                "trained (its max_offset)"
            )
        return self._proposing

    def check_horizon(self, horizon: int) -> None:
        """Raise ``ValueError`` unless the engine can imagine ``horizon`` blocks."""
        longest = self.backend.spec.horizon
        if longest is not None and horizon > longest:
            raise ValueError(f"horizon: found {horizon} blocks, expected at most {longest}, the exported model's")

    def describe(self) -> dict[str, Any]:
        """Return its settings as JSON-ready values, for the record of a result."""
        return {
            "solver": self.solver.describe(),
            "objective": self.objective.describe(),
            "bounded": self.bounded,
        }

    def _space(self, horizon: int) -> SearchSpace:
        spec = self.backend.spec
        low, high = (np.full(spec.block_width, bound, np.float32) for bound in (-np.inf, np.inf))
        if self.bounded:
            low, high = ((bound - spec.action_mean) / spec.action_std for bound in (self._low, self._high))
        return SearchSpace(horizon=horizon, frame_skip=spec.frame_skip, low=low, high=high)

    def raw(self, actions: Array) -> Array:
        """Return standardised ``actions`` ``(..., A)`` in raw units."""
        raw = actions * self.backend.spec.action_std
        raw += self.backend.spec.action_mean
        if self.bounded:
            # The solver has kept the standardised bounds; the way back may overshoot the raw ones by a rounding error.
            np.minimum(np.maximum(raw, self._low, out=raw), self._high, out=raw)
        return raw

    def _check(self, observation: Observation, goal: Array, batch: int) -> None:
        spec = self.backend.spec
        frames = observation.latents.shape[1]
        if not 1 <= frames <= spec.history:
            raise ValueError(f"observation: found {frames} frames, expected 1 to {spec.history} (the trained history)")
        expected = {
            "latents": (observation.latents.shape, (batch, frames, spec.tokens, spec.width)),
            "past_actions": (observation.past_actions.shape, (batch, frames - 1, spec.block_width)),
            "goal": (goal.shape, (batch, spec.tokens, spec.width)),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise ValueError(f"{name}: found shape {found}, expected {wanted} (B = number of generators)")


class _Cost:
    """What standardised candidates ``(B, S, K, A)`` cost, seen from an observation; a ``DifferentiableCost``."""

    def __init__(self, planner: Planner, observation: Observation, goal: Array) -> None:
        self._planner = planner
        self._context = observation.latents, observation.past_actions
        self._goal = goal

    def __call__(self, candidates: Array) -> Array:
        raw = self._planner.raw(candidates)
        scores = self._planner.backend.score(*self._context, raw, self._goal)
        return self._planner.objective(scores, raw)

    def with_gradient(self, candidates: Array) -> tuple[Array, Array]:
        raw, backend = self._planner.raw(candidates), self._planner.backend
        assert isinstance(backend, DifferentiableBackend)  # the planner has checked
        scores, pull_back = backend.differentiate(*self._context, raw, self._goal)
        slope = self._planner.objective.slope(scores, raw)
        gradient = np.zeros_like(raw) if slope.candidates is None else slope.candidates
        if slope.distance is not None or slope.readout is not None:
            gradient = gradient + pull_back(slope.distance, slope.readout)
        return self._planner.objective(scores, raw), gradient * backend.spec.action_std
