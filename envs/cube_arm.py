"""The arm of Cube: from relative motions of the gripper to targets of the servos.

The controller is OGBench's: the gripper's target pose is its present pose plus the action, within the workspace and
pointing down; Newton's method finds the joint angles. Lengths are metres, angles radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.mujoco_scene import mujoco

Array = NDArray[np.float64]

ARM_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
HOME = np.array([-0.5, -0.5, 0.5, -0.5, -0.5, 0.0]) * math.pi
WORKSPACE_LOW, WORKSPACE_HIGH = np.array([0.25, -0.35, 0.02]), np.array([0.60, 0.35, 0.35])
MOTION = np.array([0.05, 0.05, 0.05])  # of an action of 1
TURN = 0.3  # of an action of 1
_CLOSED = 0.8  # angle of a closed finger's driver
_SERVO_CLOSED = 255.0
_ITERATIONS, _PRECISION, _STRIDE = 20, 1e-4, math.radians(45.0)
_DAMPING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Grip:
    """Where the gripper is, pointing down: the point between its fingers ``(3,)``, its yaw, and how far it is closed.

    ``closed`` runs from 0 (open) to 1.
    """

    position: Array
    yaw: float
    closed: float = 0.0


class Arm:
    """Kinematics of the arm, with scratch memory of its own."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._site = model.site("ur5e/robotiq/pinch").id
        self._jacobian = np.zeros((6, model.nv))

    def grip(self, positions: Array) -> Grip:
        """Where the gripper is for the model's positions ``(Q,)``."""
        self._data.qpos[:] = positions
        mujoco.mj_kinematics(self._model, self._data)
        return self._grip_of(self._data)

    def servo_targets(self, data: mujoco.MjData, action: Array) -> Array:
        """Targets ``(7,)`` of the six joints and of the fingers for an action ``(5,)`` from the pose in ``data``."""
        now = self._grip_of(data)
        position = np.clip(now.position + MOTION * action[:3], WORKSPACE_LOW, WORKSPACE_HIGH)
        closed = min(1.0, max(0.0, now.closed + float(action[4])))
        target = Grip(position=position, yaw=now.yaw + TURN * float(action[3]))
        return np.append(self.joints_for(target, data.qpos[:6]), _SERVO_CLOSED * closed)

    def joints_for(self, grip: Grip, start: Array) -> Array:
        """Joint angles ``(6,)`` that bring the gripper to ``grip``, near ``start`` ``(6,)``; out of reach, a try."""
        model, data = self._model, self._data
        data.qpos[:6] = start
        target = _pointing_down(grip.yaw)
        for _ in range(_ITERATIONS):
            mujoco.mj_kinematics(model, data)
            shift = grip.position - data.site_xpos[self._site]
            turn = _rotation_between(data.site_xmat[self._site], target)
            if np.linalg.norm(shift) <= _PRECISION and np.linalg.norm(turn) <= _PRECISION:
                break
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._site)
            jacobian = self._jacobian[:, :6]
            damped = jacobian @ jacobian.T + _DAMPING * np.eye(6)
            step = jacobian.T @ np.linalg.solve(damped, np.concatenate([shift, turn]))
            data.qpos[:6] += step * min(1.0, _STRIDE / max(float(np.abs(step).max()), 1e-12))
        return np.array(data.qpos[:6])

    def _grip_of(self, data: mujoco.MjData) -> Grip:
        axes = data.site_xmat[self._site]
        closed = min(1.0, max(0.0, float(data.qpos[6]) / _CLOSED))
        return Grip(
            position=np.array(data.site_xpos[self._site]), yaw=math.atan2(float(axes[3]), float(axes[0])), closed=closed
        )


def _pointing_down(yaw: float) -> Array:
    """Row-major axes ``(9,)`` of a gripper that points down: half a turn about x, then ``yaw`` about z."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([cos, sin, 0.0, sin, -cos, 0.0, 0.0, 0.0, -1.0])


def _rotation_between(axes: Array, target: Array) -> Array:
    """The rotation vector ``(3,)``, in world axes, that turns ``axes`` ``(9,)`` into ``target`` ``(9,)``."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, (target.reshape(3, 3) @ axes.reshape(3, 3).T).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector
