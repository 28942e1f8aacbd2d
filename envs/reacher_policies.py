"""Scripted policies of Reacher: an expert that brings the arm to goal angles, and an explorer that collects data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.mujoco_scene import mujoco
from jepakit.envs.noise import CorrelatedNoise
from jepakit.envs.reacher import WRIST_LIMIT, Reacher, load_scene

_GEAR = 0.05  # N·m at an action of 1
_STIFFNESS, _DAMPING = 100.0, 18.0  # 1/s², 1/s


def torques_towards(data: mujoco.MjData, state: NDArray[Any], goal: NDArray[Any]) -> NDArray[np.float64]:
    """Torques ``(2,)`` in [-1, 1] that pull the joints towards the goal's angles, by inverse dynamics.

    ``data`` is scratch memory of the scene's model.
    """
    data.qpos[:], data.qvel[:] = state[:2], state[2:]
    data.qacc[:] = _STIFFNESS * (goal[:2] - state[:2]) - _DAMPING * state[2:]
    mujoco.mj_inverse(load_scene().model, data)
    torques: NDArray[np.float64] = data.qfrc_inverse / _GEAR
    return torques.clip(-1.0, 1.0)


class ReacherExpert:
    """Drives both joints to the goal's angles and stops there; the scripted baseline."""

    def __init__(self) -> None:
        self._data = mujoco.MjData(load_scene().model)

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Begin an episode towards ``goal`` ``(4,)``."""
        if goal is None:
            raise ValueError("goal of ReacherExpert: found None, expected a state (4,)")
        self._goal = np.asarray(goal, dtype=np.float64)

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(2,)``."""
        return torques_towards(self._data, np.asarray(state, dtype=np.float64), self._goal).astype(np.float32)


class ReacherExplorer:
    """Collects data that cover what a planner will propose.

    Half of the episodes drive to one random pose after the other, with noise; the others draw torques: uniform and
    independent (the public data are nothing else), correlated in time, or saturated. Noise scale and correlation are
    drawn per episode.
    """

    def __init__(self, *, expert_share: float = 0.5) -> None:
        if not 0.0 <= expert_share <= 1.0:
            raise ValueError(f"expert_share: found {expert_share}, expected a number from 0 to 1")
        self.expert_share = expert_share
        self._data = mujoco.MjData(load_scene().model)

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Draw this episode's kind, noise and first goal."""
        self._rng = rng
        self._kind = "expert" if rng.random() < self.expert_share else str(rng.choice(["uniform", "noise"]))
        scale = rng.uniform(0.1, 1.0) if self._kind == "expert" else rng.uniform(0.4, 2.0)
        self._noise = CorrelatedNoise(2, scale=scale, correlation=float(rng.choice([0.0, 0.7, 0.95])), rng=rng)
        self._goal = self._pose_near(state) if goal is None else np.asarray(goal, dtype=np.float64)

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(2,)``, clipped to [-1, 1]."""
        if self._kind == "uniform":
            return self._rng.uniform(-1.0, 1.0, 2).astype(np.float32)
        action = self._noise.sample()
        if self._kind == "expert":
            if Reacher.distance(state, self._goal) < 2.0:
                self._goal = self._pose_near(state)
            action = action + torques_towards(self._data, np.asarray(state, dtype=np.float64), self._goal)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _pose_near(self, state: NDArray[Any]) -> NDArray[np.float64]:
        """A pose at most half a turn of the shoulder away."""
        shoulder = state[0] + self._rng.uniform(-np.pi, np.pi)
        return np.array([shoulder, self._rng.uniform(-WRIST_LIMIT, WRIST_LIMIT), 0.0, 0.0])
