"""Scripted policies of Push-T: an expert that brings the T to a goal pose, and an explorer that collects data.

Both push in strokes (``pusht_strokes``): walk around the block to a stroke's start, then push straight. Lengths are px,
speeds px per action, actions ``(2,)`` in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.noise import CorrelatedNoise
from jepakit.envs.pusht import PushT
from jepakit.envs.pusht_strokes import (
    DEPTHS,
    ROOM,
    RUN_UP,
    STROKE_DEPTHS,
    Array,
    Options,
    Router,
    stroke_table,
)
from jepakit.envs.pusht_world import (
    ACTION_SCALE,
    AGENT_RADIUS,
    BLOCK_CENTRE,
    POSITION_GAIN,
    SUBSTEPS,
    TIME_STEP,
    VELOCITY_GAIN,
    WALL_HIGH,
    WALL_LOW,
    WALL_RADIUS,
    Pose,
    block_bounds,
    distance_to_block,
    sample_state,
    to_block,
    to_world,
)

CRUISE = 40.0  # px per action at which a constant action of 1 settles
GYRATION = 55.0  # the T's radius of gyration: how many px of displacement a radian of turning is worth


def _pose(state: Array) -> Pose:
    return float(state[2]), float(state[3]), float(state[4])


# -- the controller, inverted -------------------------------------------------------------------------------------
def _response() -> tuple[float, float, float]:
    """How the pusher's position after one action depends on its position, its velocity and the target."""

    def final(x: float, v: float, target: float) -> float:
        for _ in range(SUBSTEPS):
            v += (POSITION_GAIN * (target - x) - VELOCITY_GAIN * v) * TIME_STEP
            x += v * TIME_STEP
        return x

    return final(1.0, 0.0, 0.0), final(0.0, 1.0, 0.0), final(0.0, 0.0, 1.0)


_BY_POSITION, _BY_VELOCITY, _BY_TARGET = _response()


def next_position(state: Array, action: Array) -> Array:
    """Predict where the pusher is after ``action``."""
    position: Array = state[:2]
    return _BY_POSITION * position + _BY_VELOCITY * state[5:7] + _BY_TARGET * (position + ACTION_SCALE * action)


def action_to(state: Array, point: Array) -> Array:
    """Choose the action that brings the pusher to ``point``, or as near as [-1, 1] allows."""
    position: Array = state[:2]
    target = (point - _BY_POSITION * position - _BY_VELOCITY * state[5:7]) / _BY_TARGET
    return np.clip((target - position) / ACTION_SCALE, -1.0, 1.0)


def move_towards(state: Array, point: Array, speed: float) -> Array:
    """Choose the action that brings the pusher ``speed`` closer to ``point``, or there."""
    delta: Array = point - state[:2]
    length = math.hypot(delta[0], delta[1])
    return action_to(state, state[:2] + delta * min(1.0, speed / max(length, 1e-9)))


# -- purposes -----------------------------------------------------------------------------------------------------
class Purpose(Protocol):
    """Something to do for a while."""

    def act(self, state: Array) -> Array | None:
        """Choose the next action, or return None when the purpose is fulfilled or given up."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Speeds of the pusher, and how near to a stroke's start is near enough."""

    walk: float
    push: float
    slack: float = 3.0


class Stroke:
    """Walks to the start of a stroke, wherever the block is by then, and pushes along the line found there."""

    _patience = 100  # actions after which noise has evidently thrown the pusher off

    def __init__(self, options: Options, row: int, column: int, pace: Pace) -> None:
        table = stroke_table()
        self._way = options.way(row)
        self._start, self._direction = table.starts[row], table.directions[row]
        self._length = RUN_UP + float(STROKE_DEPTHS[column])
        self._pace = pace
        self._line: tuple[Array, Array] | None = None
        self._left = self._patience

    def act(self, state: Array) -> Array | None:
        """Choose the next action; None at the end of the push."""
        self._left -= 1
        if self._left < 0:
            return None
        if self._line is None:
            point = self._next_point(state)
            if point is not None:
                return move_towards(state, point, self._pace.walk)
            x, y, angle = _pose(state)
            self._line = to_world(self._start, (x, y, angle)), to_world(self._direction, (0.0, 0.0, angle))
        start, direction = self._line
        done = float((state[:2] - start) @ direction)
        if done > self._length - 1.0:
            return None
        return action_to(state, start + min(done + self._pace.push, self._length) * direction)

    def _next_point(self, state: Array) -> Array | None:
        while self._way:
            point = to_world(self._way[0], _pose(state))
            near = self._pace.slack if len(self._way) == 1 else 8.0
            if math.dist(point, state[:2]) > near:
                return point
            self._way.pop(0)
        return None


class Wander:
    """Moves straight towards a point, through the block if it must."""

    def __init__(self, point: Array, *, steps: int, speed: float) -> None:
        self._point, self._left, self._speed = point, steps, speed

    def act(self, state: Array) -> Array | None:
        """Choose the next action; None when time is up."""
        self._left -= 1
        return None if self._left < 0 else move_towards(state, self._point, self._speed)


class Burst:
    """Plays noise around a mean action: what a sampling planner would propose."""

    def __init__(self, noise: CorrelatedNoise, mean: Array, *, steps: int) -> None:
        self._noise, self._mean, self._left = noise, mean, steps

    def act(self, state: Array) -> Array | None:
        """Choose the next action; None when time is up."""
        self._left -= 1
        return None if self._left < 0 else self._mean + self._noise.sample()


_SHORT_LIST = 200
_BRISK = Pace(walk=25.0, push=15.0)


class PushTExpert:
    """Pushes the T to the goal's pose, stroke by stroke, and then takes the pusher to its own goal.

    Each stroke is the best of a table of simulated ones: least remaining error plus ``haste`` px per action it takes.
    """

    _block_tolerance, _angle_tolerance = 10.0, 0.2  # well within the success criterion, which also counts the pusher

    def __init__(self, *, pace: Pace = _BRISK, haste: float = 2.0) -> None:
        self.pace = pace
        self.haste = haste

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Begin an episode towards ``goal`` ``(7,)``, of which the velocities are ignored."""
        if goal is None:
            raise ValueError("goal of PushTExpert: found None, expected a state (7,)")
        self._goal: Array = np.asarray(goal, dtype=np.float64)
        self._rng = rng
        self._stroke: Stroke | None = None

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Choose the next action ``(2,)``."""
        state = np.asarray(state, dtype=np.float64)
        action = self._stroke.act(state) if self._stroke is not None else None
        if action is None:
            self._stroke = None if self._is_placed(state) else self._choose(state)
            action = self._stroke.act(state) if self._stroke is not None else None
        return (self._finish(state) if action is None else action).astype(np.float32)

    def _is_placed(self, state: Array) -> bool:
        near = math.dist(state[2:4], self._goal[2:4]) < self._block_tolerance
        return near and abs(_wrap(state[4] - self._goal[4])) < self._angle_tolerance

    def _choose(self, state: Array) -> Stroke | None:
        """Pick the best stroke that reduces the error, by another measure of it when none does by the usual one."""
        options = Options(state[:2], _pose(state))
        for radius in (GYRATION, float(self._rng.uniform(15.0, 120.0))):
            error = self._error(options.outcomes, radius)
            effort = (options.walks / self.pace.walk)[:, None] + (RUN_UP + STROKE_DEPTHS) / self.pace.push
            cost = (error + self.haste * effort).ravel()
            cost[error.ravel() > self._error(np.array(_pose(state)), radius) - 1.0] = np.inf
            best = np.argpartition(cost, _SHORT_LIST)[:_SHORT_LIST]
            for index in best[np.argsort(cost[best])]:
                row, column = divmod(int(index), DEPTHS)
                if np.isfinite(cost[index]) and options.fits(row, column):
                    return Stroke(options, row, column, self.pace)
        return None

    def _error(self, poses: Array, radius: float) -> Array:
        """Measure how far poses ``(3, …)`` are from the goal's, a radian being worth ``radius`` px, ``(…)``."""
        x, y, angle = self._goal[2:5]
        arm = BLOCK_CENTRE[1]
        dx = poses[0] - x - arm * (np.sin(poses[2]) - math.sin(angle))
        dy = poses[1] - y + arm * (np.cos(poses[2]) - math.cos(angle))
        return np.asarray(np.sqrt(dx**2 + dy**2 + (radius * _wrap(poses[2] - angle)) ** 2))

    def _finish(self, state: Array) -> Array:
        """Choose the action that takes the pusher to its goal, around the block."""
        pose = _pose(state)
        ways = Router(to_block(self._goal[None, :2], pose)).plan(to_block(state[:2], pose), pose)
        point = to_world(ways.points(0)[0], pose) if np.isfinite(ways.lengths[0]) else self._goal[:2]
        return move_towards(state, point, self.pace.walk)


class Pursuit:
    """Lets an expert work on a goal for a while."""

    def __init__(self, goal: Array, pace: Pace, rng: np.random.Generator, *, steps: int) -> None:
        self._expert = PushTExpert(pace=pace)
        self._expert.reset(goal, goal, rng)
        self._goal, self._left = goal, steps

    def act(self, state: Array) -> Array | None:
        """Choose the next action; None at the goal or when time is up."""
        self._left -= 1
        if self._left < 0 or PushT.success(state, self._goal):
            return None
        return self._expert.act(state).astype(np.float64)


def _wrap(angle: Any) -> Any:  # noqa: ANN401 (a number or an array, as given)
    return (angle + math.pi) % (2 * math.pi) - math.pi


class PushTExplorer:
    """Collects data in which the T is moved, in every direction, by everything a planner might propose.

    An episode is either goal-directed (an expert that draws a new goal whenever it arrives) or made of random strokes
    from random sides, of random depth. Speeds and the noise on every action, with its correlation in time, are drawn
    per episode. In between come bursts of white or coloured noise, up to saturated ones, and straight moves anywhere.
    """

    def __init__(self, *, expert_share: float = 0.4, burst_share: float = 0.25, wander_share: float = 0.05) -> None:
        shares = {"expert_share": expert_share, "burst_share": burst_share, "wander_share": wander_share}
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}: found {share}, expected a number from 0 to 1")
        self.expert_share, self.burst_share, self.wander_share = expert_share, burst_share, wander_share

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Draw this episode's habits; a ``goal`` ``(7,)`` makes it goal-directed and is its first goal."""
        self._rng = rng
        walk = rng.uniform(7.0, 18.0)
        noise = 0.0 if rng.random() < 0.2 else rng.uniform(0.0, 0.5) * walk  # px per action
        self._pace = Pace(walk=walk, push=rng.uniform(4.0, 14.0), slack=3.0 + noise)
        self._noise = self._draw_noise(noise / CRUISE)
        directed = goal is not None or rng.random() < self.expert_share
        self._goal: Array | None = None
        if directed:
            self._goal = sample_state(rng) if goal is None else np.asarray(goal, dtype=np.float64)
        self._purpose: Purpose | None = None

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Choose the next action ``(2,)``, in [-1, 1]."""
        state = np.asarray(state, dtype=np.float64)
        action = None if self._purpose is None else self._purpose.act(state)
        if action is None:
            self._purpose = self._draw_purpose(state)
            action = self._purpose.act(state)
        action = np.zeros(2) if action is None else action
        if not isinstance(self._purpose, Burst):
            action = action + self._noise.sample()
        action = _stay_inside(state, np.clip(action, -1.0, 1.0))
        if _squeezes_block(state, action):
            self._purpose = None
            away = state[:2] - to_world(np.array(BLOCK_CENTRE), _pose(state))
            action = _stay_inside(state, move_towards(state, state[:2] + away, self._pace.walk))
        return action.astype(np.float32)

    def _draw_noise(self, scale: float) -> CorrelatedNoise:
        correlation = float(self._rng.choice([0.0, 0.7, 0.95]))
        return CorrelatedNoise(2, scale=scale, correlation=correlation, rng=self._rng)

    def _draw_purpose(self, state: Array) -> Purpose:
        rng = self._rng
        draw = rng.random()
        if draw < self.burst_share:
            return self._draw_burst(state)
        if draw < self.burst_share + self.wander_share:
            point = rng.uniform(WALL_LOW + ROOM, WALL_HIGH - ROOM, 2)
            return Wander(point, steps=int(rng.integers(5, 20)), speed=self._pace.walk)
        if self._goal is not None:
            if PushT.success(state, self._goal):
                self._goal = sample_state(rng)
            return Pursuit(self._goal, self._pace, rng, steps=int(rng.integers(20, 80)))
        return self._draw_stroke(state) or self._draw_burst(state)

    def _draw_burst(self, state: Array) -> Burst:
        """Draw noise from faint to saturated that mostly leans towards the block, so that it also pushes."""
        rng = self._rng
        mean = np.zeros(2)
        if rng.random() < 0.7:
            delta = to_world(np.array(BLOCK_CENTRE), _pose(state)) - state[:2]
            mean = rng.uniform(0.0, 0.4) * delta / max(math.hypot(*delta), 1.0)
        return Burst(self._draw_noise(10.0 ** rng.uniform(-1.0, 0.0)), mean, steps=int(rng.integers(5, 26)))

    def _draw_stroke(self, state: Array) -> Stroke | None:
        """Draw a stroke, rather one that begins close by, and shorten it until the block stays inside the walls."""
        options = Options(state[:2], _pose(state))
        weights = np.exp(-options.walks / 100.0)
        if not weights.any():
            return None
        row = int(self._rng.choice(len(weights), p=weights / weights.sum()))
        for column in range(int(self._rng.integers(1, DEPTHS)), -1, -4):
            if options.fits(row, column):
                return Stroke(options, row, column, self._pace)
        return None


def _stay_inside(state: Array, action: Array) -> Array:
    """Change ``action`` as little as needed to keep the pusher ``ROOM`` inside the walls."""
    wish = next_position(state, action)
    allowed = np.clip(wish, WALL_LOW + ROOM, WALL_HIGH - ROOM)
    return action if (wish == allowed).all() else action_to(state, allowed)


def _squeezes_block(state: Array, action: Array) -> bool:
    """Whether ``action`` may press the block into a wall; it would be driven through, the pusher being kinematic."""
    pose = _pose(state)
    left, right, top, bottom = block_bounds(pose)
    low, high = WALL_LOW + WALL_RADIUS, WALL_HIGH - WALL_RADIUS
    if min(left, top) > low + 40.0 and max(right, bottom) < high - 40.0:  # farther than any action pushes
        return False
    wish = next_position(state, action)
    overlap = AGENT_RADIUS - float(distance_to_block(to_block(wish, pose)))
    if overlap <= 0.0:
        return False
    dx, dy = (wish - state[:2]).tolist()
    share = 1.0 if overlap == AGENT_RADIUS else min(1.0, overlap / max(math.hypot(dx, dy), 1e-9))
    pushed_low = min(left + min(share * dx, 0.0), top + min(share * dy, 0.0))
    pushed_high = max(right + max(share * dx, 0.0), bottom + max(share * dy, 0.0))
    return bool(pushed_low < low or pushed_high > high)
