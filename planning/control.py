"""The robot's loop: a camera frame in, an action out, at a fixed rate, and a defined answer to everything that fails.

Needs NumPy only. Planning happens inside the control period in which it falls due, so a plan must fit into a period;
the robot keeps its last command meanwhile.

Shapes: C raw action width, P proprio width, h and w pixels.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.planning.backend import Frames
from jepakit.planning.evaluation.latency import Latency, percentiles
from jepakit.planning.mpc import MPCPolicy
from jepakit.planning.policies import Assignment
from jepakit.planning.solver import Array

Fault = Literal[
    "no_frame", "stale_frame", "bad_frame", "bad_proprio", "planner_error", "bad_plan", "missed_deadline"
]  # fmt: skip

_LOG = logging.getLogger("jepakit.control")
#: Figures are about the latest this many plans and periods, so that a loop that runs for weeks stays small.
_KEPT = 10_000


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """Settings of :class:`ControlLoop`; times in seconds, actions in raw units.

    Args:
        period: time between two raw actions; the model must have been trained at this rate.
        stop_action: what makes this robot stand still, C numbers: zeros where actions are velocities, *not* where they
            are positions.
        on_fault: ``stop`` sends the stop action; ``hold`` repeats the last action sent, for ``hold_steps`` periods of
            one run of faults, then stops. Repeating a velocity means moving on blindly; a position means waiting there.
        hold_steps: how long ``hold`` holds.
        max_age: oldest frame that is still acted upon.
        planning_time: when the search stops and returns the best plan so far, after the start of a period; by default
            80 % of it, because the iteration under way is finished first. A plan later than the period is discarded.

    """

    period: float
    stop_action: tuple[float, ...]
    on_fault: Literal["stop", "hold"] = "stop"
    hold_steps: int = 3
    max_age: float = 0.2
    planning_time: float | None = None

    def __post_init__(self) -> None:
        for name in ("period", "max_age"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"ControlConfig.{name}: found {value}, expected a positive number of seconds")
        if not 0 < self.search_time <= self.period:
            raise ValueError(
                f"ControlConfig.planning_time: found {self.planning_time}, expected more than 0 and at most the period "
                f"of {self.period} s; plan with a smaller search, or at a lower rate"
            )
        if self.on_fault not in ("stop", "hold"):
            raise ValueError(f"ControlConfig.on_fault: found {self.on_fault!r}, expected 'stop' or 'hold'")
        if self.hold_steps < 1:
            raise ValueError(f"ControlConfig.hold_steps: found {self.hold_steps}, expected at least 1; or 'stop'")
        if not np.isfinite(self.stop_action).all():
            raise ValueError(f"ControlConfig.stop_action: found {self.stop_action}, expected finite numbers")

    @property
    def search_time(self) -> float:
        """Return the time after the start of a period at which the search stops."""
        return 0.8 * self.period if self.planning_time is None else self.planning_time


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What the robot senses: a uint8 ``frame (h, w, 3)``, when it was taken by the loop's clock, ``proprio (P,)``."""

    frame: NDArray[Any]
    taken_at: float
    proprio: NDArray[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the robot does next: a raw ``action`` ``(C,)``; if it is the safe one, which ``fault`` and why in detail."""

    action: Array
    fault: Fault | None = None
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ControlSummary:
    """How a loop has run.

    Args:
        steps: actions sent.
        faults: how many of them were safe actions, by kind.
        overruns: steps that took longer than a period, camera and sending included; counted by ``run`` only.
        plan: time per plan, encoding included.
        jitter: how far the time between two actions was from the period.

    """

    steps: int
    faults: dict[Fault, int]
    overruns: int
    plan: Latency | None
    jitter: Latency | None

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {count}" for kind, count in self.faults.items()) or "none"
        figures = [
            f"{name} p50/p95/p99 {found.p50:.1f}/{found.p95:.1f}/{found.p99:.1f} ms (of {found.repeats})"
            for name, found in (("plan", self.plan), ("period jitter", self.jitter))
            if found is not None
        ]
        return "; ".join([f"{self.steps} steps, {self.overruns} longer than a period", f"faults: {faults}", *figures])


class ControlLoop:
    """Drives one robot to a goal by planning with a world model.

    ``start`` sets the goal; then either ``run`` keeps the pace itself, or ``step`` is called once per period. After a
    fault, or a pause longer than two periods, the model's memory of past frames and the plan are dropped, because the
    robot did something else; with the next good frame it plans anew, as at the start. Actions are clipped to the
    model's action bounds.

    Args:
        policy: what plans, for example ``bundle.policy(backend)``.
        config: rate and safe behaviour.
        clock: seconds that never go back; frames are stamped with the same clock. The default is what the solvers
            compare their deadline with.

    """

    def __init__(
        self, policy: MPCPolicy, config: ControlConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.policy = policy
        self.config = config
        self._spec = policy.planner.backend.spec
        self._clock = clock
        self._stop = np.array(config.stop_action, np.float32)
        low, high = self._spec.action_low, self._spec.action_high
        if self._stop.shape != low.shape or not ((low <= self._stop) & (self._stop <= high)).all():
            raise ValueError(
                f"ControlConfig.stop_action: found {config.stop_action}, expected {self._spec.action_dim} numbers "
                f"within the action bounds {low.tolist()} to {high.tolist()}"
            )
        self._started = False
        self._sent: Array | None = None
        self._clear()

    def start(
        self,
        goal: Frames | None,
        *,
        proprio: NDArray[Any] | None = None,
        offset: int | None = None,
        seed: int = 0,
    ) -> None:
        """Take a new goal: a picture ``(h, w, 3)`` and ``proprio (P,)`` there, and forget what was before.

        The goal may be ``None`` if the objective needs none. It is thought to be ``offset`` actions away, see
        :meth:`jepakit.planning.MPCPolicy.expect`. Plans once for every length of the history, so that engines are warm
        when the robot moves. Raises ``ValueError`` for a goal or offset that does not fit; then nothing is started.
        """
        self.finish()
        spec = self._spec
        side = spec.image_size
        if goal is None:
            if self.policy.planner.objective.needs_goal:
                raise ValueError("goal: found none, expected a picture: the objective is a distance to it")
            goal = np.zeros((side, side, 3), np.uint8)
        felt = np.zeros(0) if proprio is None else np.asarray(proprio)
        nothing = np.empty(0)
        assignment = Assignment(
            state=nothing, goal_state=nothing, goal_frame=goal, goal_proprio=felt, rng=np.random.default_rng(seed)
        )
        self.policy.reset([assignment], budget=0)
        self.policy.expect(offset)
        self._warm_up(assignment)
        self._started = True
        self._clear()

    def finish(self) -> None:
        """Leave the goal: :meth:`step` is refused until :meth:`start` sets one again."""
        self._started = False

    def step(self, sight: Sight | None) -> Command:
        """Return what to do now, having sensed ``sight`` (``None``: the camera gave nothing). Never raises.

        To be called once per period, after :meth:`start` (else ``RuntimeError``).
        """
        command = self._decide(sight, self._clock())
        self._account(command)
        return command

    def run(
        self,
        camera: Callable[[], Sight | None],
        send: Callable[[Array], object],
        *,
        steps: int | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> ControlSummary:
        """Call ``camera``, plan and ``send`` the action once per period, ``steps`` times or until interrupted.

        A period begins with the camera. Every action lasts a period or longer, but for those that a safe one replaces:
        an action that is ready earlier waits, so that the time it takes to plan does not shorten the ones that need no
        plan. After a step longer than a period the next one follows at once, and the pace counts from there. A camera
        that raises counts as one without a frame. However the loop ends, the last action sent is the stop action.
        """
        period, done = self.config.period, 0
        due = self._clock()

        def wait_until(moment: float) -> None:
            if (wait := moment - self._clock()) > 0:
                sleep(wait)

        try:
            while steps is None or done < steps:
                wait_until(due)
                began = self._clock()
                command = self._decide(_look(camera), began)
                took = self._clock() - began
                if self._sent_at is not None and command.fault is None:
                    wait_until(self._sent_at + period)
                self._account(command)
                began = self._clock()
                send(command.action)
                took += self._clock() - began
                self._overruns += took > period
                done += 1
                due = max(due + period, self._clock())
            if self._sent_at is not None:
                wait_until(self._sent_at + period)
        finally:
            self._sent = self._stop.copy()
            send(self._sent.copy())
            _LOG.info("%s", self.summary())
        return self.summary()

    def summary(self) -> ControlSummary:
        """Return counts since :meth:`start`, and figures about the latest plans and periods."""
        return ControlSummary(
            steps=self._steps,
            faults=dict(self._faults),
            overruns=self._overruns,
            plan=percentiles(self._plan_times) if self._plan_times else None,
            jitter=percentiles(self._jitter) if self._jitter else None,
        )

    def _warm_up(self, goal: Assignment) -> None:
        """Plan with every length of the history, as if at the goal, and keep nothing."""
        planner, mean = self.policy.planner, self._spec.action_mean
        target = None
        if planner.objective.needs_goal:
            target = planner.encode_goal(goal.goal_frame[None], goal.goal_proprio[None])
        for frames in range(1, self.policy.history):
            sights, felt = (np.stack([part] * frames)[None] for part in (goal.goal_frame, goal.goal_proprio))
            blocks = np.stack([mean] * frames)[None, 1:]
            seen = planner.observe(sights, past_actions=blocks, proprio=felt)
            rng = np.random.default_rng(0)
            initial = self.policy.proposed(seen, target, self.policy.config.horizon)
            planner.plan(seen, target, horizon=self.policy.config.horizon, rngs=[rng], initial=initial)
        self.policy.rehearsal(_View(Sight(frame=goal.goal_frame, taken_at=0.0, proprio=goal.goal_proprio)), goal)()

    def _clear(self) -> None:
        self._steps = self._overruns = self._held = 0
        self._faults: Counter[Fault] = Counter()
        self._plan_times: deque[float] = deque(maxlen=_KEPT)
        self._jitter: deque[float] = deque(maxlen=_KEPT)
        self._sent = None
        self._sent_at: float | None = None
        self._fault: Fault | None = None

    def _decide(self, sight: Sight | None, began: float) -> Command:
        """Return what to do in the period that ``began`` then."""
        if not self._started:
            raise RuntimeError("ControlLoop.step: called before start(), which sets the goal")
        if self._sent_at is not None and began - self._sent_at > 2 * self.config.period:
            self.policy.forget()
            self._sent = None  # long over: nothing to hold
        try:
            command = self._refused(sight, self._clock())
        except Exception as error:  # what no camera should give, such as a frame that is no array
            command = self._safe("bad_frame", f"{type(error).__name__}: {error}")
        if command is None:
            assert sight is not None
            command = self._act(sight, began)
        return command

    def _refused(self, sight: Sight | None, now: float) -> Command | None:
        """Return the safe command if what was sensed cannot be acted upon."""
        side, width = self._spec.image_size, self._spec.proprio
        if sight is None:
            return self._safe("no_frame", "the camera gave no frame")
        if not isinstance(sight.taken_at, Real):
            return self._safe("stale_frame", f"the frame's time is {sight.taken_at!r}, expected seconds")
        age = now - sight.taken_at
        # Also false for NaN. Clocks may differ a little, but of a frame from the future the age is not known.
        if not -self.config.period <= age <= self.config.max_age:
            expected = f"at most {self.config.max_age} s, and at most a period ahead of the clock"
            return self._safe("stale_frame", f"the frame is {age:.3f} s old, expected {expected}")
        frame = sight.frame
        if frame.dtype != np.uint8 or frame.shape != (side, side, 3):
            wanted = f"uint8 of shape {(side, side, 3)}"
            return self._safe("bad_frame", f"found {frame.dtype} of shape {frame.shape}, expected {wanted}")
        if width:
            felt = None if sight.proprio is None else np.asarray(sight.proprio)
            if felt is None or felt.shape != (width,) or felt.dtype.kind not in "fiu" or not np.isfinite(felt).all():
                found = None if felt is None else f"{felt.dtype} of shape {felt.shape}: {felt.tolist()}"
                return self._safe("bad_proprio", f"found {found}, expected {width} finite numbers")
        return None

    def _act(self, sight: Sight, began: float) -> Command:
        before, asked = self.policy.last_plan, self._clock()
        try:
            [action] = self.policy.act([_View(sight)], [0], deadline=began + self.config.search_time)
        except Exception as error:  # whatever fails in a model or an engine, the robot must be told something
            return self._safe("planner_error", f"{type(error).__name__}: {error}")
        plan = self.policy.last_plan
        if plan is not None and plan is not before:
            now = self._clock()
            self._plan_times.append(now - asked)
            if not np.isfinite(plan.actions).all():
                detail = f"found {int((~np.isfinite(plan.actions)).sum())} numbers not finite"
                return self._safe("bad_plan", detail, unsent=1)
            if now - began > self.config.period:
                detail = f"the plan came {now - began:.3f} s into a period of {self.config.period} s"
                return self._safe("missed_deadline", detail, unsent=1)
        within = np.clip(action, self._spec.action_low, self._spec.action_high)
        self.policy.done(within[None])
        return Command(action=within)

    def _safe(self, fault: Fault, detail: str, *, unsent: int = 0) -> Command:
        self.policy.forget(unsent=unsent)
        hold = self.config.on_fault == "hold" and self._sent is not None and self._held < self.config.hold_steps
        self._held += 1
        action = self._sent if hold and self._sent is not None else self._stop
        return Command(action=action.copy(), fault=fault, detail=detail)

    def _account(self, command: Command) -> None:
        """Count, log where a run of faults begins, changes or ends, and remember what is sent."""
        now = self._clock()
        if self._sent_at is not None:
            self._jitter.append(abs(now - self._sent_at - self.config.period))
        self._steps += 1
        self._sent, self._sent_at = command.action.copy(), now
        if command.fault is not None:
            self._faults[command.fault] += 1
        else:
            self._held = 0
        if command.fault != self._fault:
            if command.fault is None:
                _LOG.info("step %d: recovered from %s", self._steps, self._fault)
            else:
                _LOG.warning("step %d: %s: %s", self._steps, command.fault, command.detail)
        self._fault = command.fault


@dataclass(frozen=True)
class _View:
    """A sight as a policy looks at it."""

    sight: Sight

    @property
    def state(self) -> NDArray[Any]:
        raise RuntimeError("state: a robot has none; only scripted policies look at it")

    @property
    def proprio(self) -> NDArray[Any]:
        return np.zeros(0) if self.sight.proprio is None else np.array(self.sight.proprio)

    def render(self) -> Frames:
        # A copy: a camera driver may write its next picture into the same memory.
        return np.array(self.sight.frame)


def _look(camera: Callable[[], Sight | None]) -> Sight | None:
    try:
        return camera()
    except Exception as error:
        _LOG.warning("camera: %s: %s", type(error).__name__, error)
        return None
