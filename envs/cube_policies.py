"""Scripted policies of Cube: an expert that brings the cube to a goal, and an explorer that collects data.

Lengths are metres, angles radians, actions ``(5,)`` in [-1, 1].
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.cube import (
    CUBE_HALF,
    CUBE_POSITION,
    CUBE_QUATERNION,
    POSITION_TOLERANCE,
    TABLE_HIGH,
    TABLE_LOW,
    load_scene,
)
from jepakit.envs.cube_arm import MOTION, TURN, Arm, Grip
from jepakit.envs.noise import CorrelatedNoise

Array = NDArray[np.float64]

_HOVER = 0.09  # height above the cube from which the open fingers come down
_ALIGNED, _AROUND = 0.02, 0.012  # distances at which the gripper may come down, and close
_TURNED = 0.2
_LOST = 0.035  # distance between gripper and cube at which the cube has slipped
_CLEARANCE = 0.06  # height at which the cube travels
_GRASP_STEPS, _RELEASE_STEPS = 10, 8
_ARRIVED = 0.3 * POSITION_TOLERANCE
_POSITIONS = 21  # of the state's entries
_HIGHEST = 0.20  # at which the explorer holds the cube


def action_towards(grip: Grip, target: Grip) -> Array:
    """The action ``(5,)`` that moves the gripper from ``grip`` to ``target``, or as near as [-1, 1] allows."""
    shift = (target.position - grip.position) / MOTION
    turn = _wrap(target.yaw - grip.yaw) / TURN
    return np.array([*shift, turn, target.closed - grip.closed]).clip(-1.0, 1.0)


def _wrap(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


class PickAndPlace:
    """Grasps the cube and carries it to a place; it begins anew when the cube slips."""

    def __init__(self) -> None:
        self._arm = Arm(load_scene().model)

    def reset(self, place: Array) -> None:
        """Begin to bring the cube to ``place`` ``(3,)``."""
        self._place = place
        self._stage: Literal["approach", "grasp", "carry", "release"] = "approach"
        self._waited = 0

    def redirect(self, place: Array) -> None:
        """Change the destination without letting go."""
        self._place = place

    def release(self) -> None:
        """Open the fingers and leave the cube where it is."""
        self._stage, self._waited = "release", 0

    def done(self, state: Array) -> bool:
        """Whether the cube is at its place, or has been left."""
        if self._stage == "release":
            return self._waited >= _RELEASE_STEPS
        return bool(np.linalg.norm(state[CUBE_POSITION] - self._place) < _ARRIVED)

    @property
    def holding(self) -> bool:
        """Whether the cube is in the gripper."""
        return self._stage == "carry"

    def act(self, state: Array) -> Array:
        """The next action ``(5,)``."""
        grip, cube = self._arm.grip(state[:_POSITIONS]), state[CUBE_POSITION]
        gap = cube - grip.position
        if self._stage == "release":
            self._waited += 1
            rise = 0.0 if grip.closed > 0.3 else _HOVER
            return action_towards(grip, Grip(position=grip.position + np.array([0.0, 0.0, rise]), yaw=grip.yaw))
        if self._stage == "carry" and np.linalg.norm(gap) > _LOST:
            self._stage = "approach"
        if self._stage == "approach":
            if np.linalg.norm(gap) < _AROUND:
                self._stage, self._waited = "grasp", 0
            else:
                return action_towards(grip, self._approach(grip, cube, state[CUBE_QUATERNION]))
        if self._stage == "grasp":
            self._waited += 1
            if self._waited > _GRASP_STEPS or np.abs(state[_POSITIONS + 6]) < 0.05 < grip.closed:
                self._stage = "carry"
            return action_towards(grip, Grip(position=cube, yaw=grip.yaw, closed=grip.closed + 1.0))
        return action_towards(grip, self._carry(grip, cube))

    def _approach(self, grip: Grip, cube: Array, quaternion: Array) -> Grip:
        """Above the cube first, fingers along its sides; then down, open."""
        turn = _turn_to_sides(grip.yaw, quaternion)
        beside = float(np.linalg.norm((cube - grip.position)[:2]))
        height = cube[2] + (0.0 if beside < _ALIGNED and abs(turn) < _TURNED and grip.closed < 0.3 else _HOVER)
        return Grip(position=np.array([cube[0], cube[1], height]), yaw=grip.yaw + turn)

    def _carry(self, grip: Grip, cube: Array) -> Grip:
        """Up while the place is far, then straight to it, pressing the fingers together."""
        way = self._place - cube
        height = (
            max(float(self._place[2]), _CLEARANCE) if np.linalg.norm(way[:2]) > POSITION_TOLERANCE else self._place[2]
        )
        way[2] = height - cube[2]
        return Grip(position=grip.position + way, yaw=grip.yaw, closed=grip.closed + 1.0)


def _turn_to_sides(yaw: float, quaternion: Array) -> float:
    """The smallest turn that lines the fingers up with two sides of the cube."""
    w, x, y, z = quaternion
    cube_yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    quarter = math.pi / 2
    return (cube_yaw - yaw + quarter / 2) % quarter - quarter / 2


class CubeExpert:
    """Brings the cube to the goal's position; the scripted baseline."""

    def __init__(self) -> None:
        self._task = PickAndPlace()

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Begin an episode towards ``goal`` ``(41,)``."""
        if goal is None:
            raise ValueError("goal of CubeExpert: found None, expected a state (41,)")
        self._task.reset(np.asarray(goal, dtype=np.float64)[CUBE_POSITION])

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(5,)``."""
        return self._task.act(np.asarray(state, dtype=np.float64)).astype(np.float32)


class CubeExplorer:
    """Collects data that cover what a planner will propose.

    Most episodes handle the cube with noise on every action: to one random place after the other, on the table or
    above it, sometimes letting go. The others wander by noise alone, half of them drawn to the cube. Noise scale and
    correlation in time (0, 0.7 or 0.95) are drawn per episode, so white, smooth and saturated actions are in the data.
    """

    def __init__(self, *, handle_share: float = 0.85) -> None:
        if not 0.0 <= handle_share <= 1.0:
            raise ValueError(f"handle_share: found {handle_share}, expected a number from 0 to 1")
        self.handle_share = handle_share
        self._task = PickAndPlace()

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Draw this episode's kind, noise and first place."""
        self._rng = rng
        handles = rng.random() < self.handle_share
        scale = rng.uniform(0.05, 0.5) if handles else rng.uniform(0.4, 1.5)
        self._noise = CorrelatedNoise(5, scale=scale, correlation=float(rng.choice([0.0, 0.7, 0.95])), rng=rng)
        self._purpose = 1.0 if handles else float(rng.choice([0.0, 0.5]))
        self._task.reset(self._place() if goal is None else np.asarray(goal, dtype=np.float64)[CUBE_POSITION])

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(5,)``, clipped to [-1, 1]."""
        action = self._noise.sample()
        if self._purpose > 0.0:
            array = np.asarray(state, dtype=np.float64)
            if self._task.done(array):
                self._next_purpose()
            action = action + self._purpose * self._task.act(array)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _next_purpose(self) -> None:
        if not self._task.holding:
            self._task.reset(self._place())
        elif self._rng.random() < 0.3:
            self._task.release()
        else:
            self._task.redirect(self._place())

    def _place(self) -> Array:
        """A place for the cube, on the table or above it."""
        height = CUBE_HALF if self._rng.random() < 0.6 else self._rng.uniform(CUBE_HALF, _HIGHEST)
        return np.array([*self._rng.uniform(TABLE_LOW, TABLE_HIGH), height])
