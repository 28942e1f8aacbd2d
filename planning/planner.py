"""The planner: a backend that scores action sequences, a solver that searches them, an objective that judges.

Needs NumPy only: the same code plans with PyTorch in the lab and with another engine on the robot.

Shapes: B environments, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon in blocks,
F frame skip, C raw action width, A = F·C action-block width, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepakit.planning.objective import GoalDistance, Objective
from jepakit.planning.solver import Array, CostFunction, SearchSpace, Solver

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PlannerSpec:
    """What a planner must know about a world model. Actions are in raw units.

    Args:
        image_size: side of the square frames the encoder takes, pixels.
        history: frames the model was trained to look back on, H.
        frame_skip: raw actions per block, F.
        action_dim: raw action width, C.
        action_mean: mean of the training episodes' action blocks, ``(A,)``.
        action_std: their standard deviation, ``(A,)``.
        action_low: the environment's lower action bound, ``(C,)``; infinite where there is none.
        action_high: its upper bound, ``(C,)``.
        tokens: latent tokens per frame, N.
        width: latent width, D.
        proprio: numbers of proprioception the encoder takes beside each frame, P; 0 for pixels only.
        whole_history: the encoder follows objects from frame to frame, so the frames of a history must be encoded in
            one call; otherwise each is encoded once, when it is new.

    """

    image_size: int
    history: int
    frame_skip: int
    action_dim: int
    action_mean: Array
    action_std: Array
    action_low: Array
    action_high: Array
    tokens: int
    width: int
    proprio: int = 0
    whole_history: bool = False

    def __post_init__(self) -> None:
        for name in ("image_size", "history", "frame_skip", "action_dim", "tokens", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"PlannerSpec.{name}: found {getattr(self, name)}, expected at least 1")
        widths = {"action_mean": self.block_width, "action_std": self.block_width}
        widths |= {"action_low": self.action_dim, "action_high": self.action_dim}
        for name, width in widths.items():
            array = getattr(self, name)
            bad = np.isnan(array) if name in ("action_low", "action_high") else ~np.isfinite(array)
            if array.shape != (width,) or array.dtype != np.float32 or bad.any():
                raise ValueError(
                    f"PlannerSpec.{name}: found {array.dtype} of shape {array.shape} with values {array.tolist()}, "
                    f"expected {width} float32 numbers, finite unless they are bounds"
                )
        if not (self.action_std > 0).all():
            raise ValueError(f"PlannerSpec.action_std: found {self.action_std.tolist()}, expected positive numbers")
        if not (self.action_low <= self.action_high).all():
            raise ValueError(
                f"PlannerSpec.action_low: found {self.action_low.tolist()}, "
                f"expected at most action_high = {self.action_high.tolist()}"
            )

    @property
    def block_width(self) -> int:
        """Return the action-block width A = F·C."""
        return self.frame_skip * self.action_dim


class Backend(Protocol):
    """A world model behind an engine (PyTorch, ONNX Runtime, TensorRT). Arrays in and out are NumPy."""

    @property
    def spec(self) -> PlannerSpec:
        """Say what the planner must know about the model."""
        ...

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Return latents ``(B, T, N, D)`` of frames ``(B, T, h, w, 3)`` and, if wanted, ``proprio`` ``(B, T, P)``."""
        ...

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Array:
        """Return the distance to the goal after every block, ``(B, S, K)``.

        Takes latents ``history`` ``(B, H, N, D)`` of 1 to ``spec.history`` frames, the raw blocks ``past_actions``
        ``(B, H−1, A)`` executed between them, raw ``candidates`` ``(B, S, K, A)`` and the ``goal``'s latents
        ``(B, N, D)``. The candidates may be a buffer that is overwritten after the call.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known when planning: ``latents (B, H, N, D)`` of real frames, raw ``past_actions (B, H−1, A)``."""

    latents: Array
    past_actions: Array


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Raw ``actions (B, K, A)``, the solver's estimate of their ``cost (B,)``, and its number of iterations."""

    actions: Array
    cost: Array
    iterations: int


class Planner:
    """Finds action blocks that lead from an observation to a goal.

    Args:
        backend: the world model.
        solver: the search, for example :class:`jepakit.planning.CEM`.
        objective: reduces distances per step to one cost per candidate; by default the last step's (the paper's).
        bounded: keep every action within the environment's bounds. The paper does not.

    """

    def __init__(
        self, backend: Backend, solver: Solver, objective: Objective | None = None, *, bounded: bool = False
    ) -> None:
        self.backend = backend
        self.solver = solver
        self.objective = objective or GoalDistance()
        self.bounded = bounded
        spec = backend.spec
        if bounded and not np.isfinite([spec.action_low, spec.action_high]).all():
            raise ValueError(
                f"Planner.bounded: found action bounds {spec.action_low.tolist()} to {spec.action_high.tolist()}, "
                "expected finite ones; set the model's action statistics, or plan unbounded"
            )
        self._low, self._high = (np.tile(bound, spec.frame_skip) for bound in (spec.action_low, spec.action_high))

    def observe(self, frames: Frames, past_actions: Array | None = None, proprio: Array | None = None) -> Observation:
        """Encode real ``frames`` ``(B, H, h, w, 3)``, oldest first; ``past_actions`` ``(B, H−1, A)`` lie between.

        Models that feel their robot take its raw ``proprio`` ``(B, H, P)``, too.
        """
        if past_actions is None:
            past_actions = np.empty((len(frames), 0, self.backend.spec.block_width), np.float32)
        return Observation(latents=self.encode(frames, proprio), past_actions=past_actions)

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Return latents ``(B, T, N, D)`` of ``(B, T, h, w, 3)`` and, where the model takes it, ``proprio (B, T, P)``.

        Raises ``ValueError`` unless frames are uint8 of the model's size and proprioception is there when wanted.
        """
        side = self.backend.spec.image_size
        if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[2:] != (side, side, 3):
            raise ValueError(
                f"frames: found {frames.dtype} of shape {frames.shape}, expected uint8 of shape "
                f"(B, T, {side}, {side}, 3): render or resize them to the model's image size"
            )
        wanted = self.backend.spec.proprio
        if not wanted:
            return self.backend.encode(frames)
        found = None if proprio is None else proprio.shape
        if proprio is None or found != (*frames.shape[:2], wanted):
            raise ValueError(
                f"proprio: found {found}, expected shape {(*frames.shape[:2], wanted)}: this model takes the robot's "
                "proprioception beside every frame, of the goal too"
            )
        return self.backend.encode(frames, np.asarray(proprio, np.float32))

    def encode_goal(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Return latents ``(B, N, D)`` of goal pictures ``(B, h, w, 3)`` (and ``proprio`` ``(B, P)`` at the goal)."""
        return self.encode(frames[:, None], None if proprio is None else proprio[:, None])[:, 0]

    def plan(
        self,
        observation: Observation,
        goal: Array,
        *,
        horizon: int,
        rngs: Sequence[np.random.Generator],
        initial: Array | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Search for ``horizon`` blocks that lead from ``observation`` to the latents ``goal`` ``(B, N, D)``.

        ``rngs`` holds one generator per environment: with equal generators an environment's plan does not depend on
        the batch it is planned in. ``initial`` ``(B, K, A)`` in raw units warm-starts the search; ``deadline`` is a
        ``time.monotonic()`` value after which no further iteration starts.
        """
        spec = self.backend.spec
        self._check(observation, goal, len(rngs))
        if initial is not None:
            initial = (initial - spec.action_mean) / spec.action_std
        solution = self.solver.solve(
            self._cost(observation, goal), self._space(horizon), rngs=rngs, initial=initial, deadline=deadline
        )
        actions = self._raw(solution.actions, np.empty_like(solution.actions))
        return Plan(actions=actions, cost=solution.cost, iterations=solution.iterations)

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

    def _raw(self, actions: Array, out: Array) -> Array:
        """Write standardised ``actions`` ``(..., A)`` into ``out`` in raw units."""
        np.multiply(actions, self.backend.spec.action_std, out=out)
        np.add(out, self.backend.spec.action_mean, out=out)
        if self.bounded:
            # The solver has kept the standardised bounds; the way back may overshoot the raw ones by a rounding error.
            np.minimum(np.maximum(out, self._low, out=out), self._high, out=out)
        return out

    def _cost(self, observation: Observation, goal: Array) -> CostFunction:
        """Build the cost of standardised candidates, seen from ``observation``."""
        buffer = np.empty(0, np.float32)

        def cost(candidates: Array) -> Array:
            nonlocal buffer
            if buffer.shape != candidates.shape:
                buffer = np.empty_like(candidates)
            raw = self._raw(candidates, buffer)
            steps = self.backend.score(observation.latents, observation.past_actions, raw, goal)
            return self.objective(steps, raw)

        return cost

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
