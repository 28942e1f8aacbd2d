"""Cube: a robot arm with a gripper moves one cube on a table towards a goal position.

Physics are OGBench's single-cube task (arXiv 2410.20092): a UR5e arm, a Robotiq 2F-85 gripper, a cube of 4 cm. The
picture is its camera ``front_pixels`` with a purple gripper and an opaque arm, as in the public data of LeWM
(arXiv 2603.19312). Lengths are metres, angles radians; Q = 21 positions, V = 20 velocities.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.envs.base import State
from jepakit.envs.cube_arm import ARM_JOINTS, HOME, WORKSPACE_HIGH, WORKSPACE_LOW, Arm, Grip
from jepakit.envs.mujoco_scene import MujocoEnv, Scene, mujoco

POSITION_TOLERANCE = 0.04
CUBE_HALF = 0.02
SUBSTEPS = 25  # of 2 ms
ARM = slice(0, 6)  # positions of the arm's joints; velocities of the arm start at 21
CUBE_POSITION = slice(14, 17)
CUBE_QUATERNION = slice(17, 21)
_Q = 21
TABLE_LOW, TABLE_HIGH = np.array([0.30, -0.30]), np.array([0.55, 0.30])  # where the cube starts
_START_LOW = np.array([*WORKSPACE_LOW[:2], 0.20])  # where the gripper starts
_FAR = 1e6  # finite, because Gymnasium warns of infinite bounds
_FINGERS = tuple(
    f"{side}_{link}" for side in ("right", "left") for link in ("driver", "coupler", "spring_link", "follower")
)


class Cube(MujocoEnv):
    """The single-cube task towards a goal state.

    State ``(41,)``: MuJoCo's positions (6 joints of the arm, 8 of the gripper, the cube's x, y, z and unit
    quaternion w, x, y, z), then velocities (6, 8, the cube's linear and angular ones). Action ``(5,)``, nominally in
    [-1, 1] and not clipped: the gripper's motion in x, y, z (5 cm each), its yaw (0.3 rad), and closing (1 closes
    fully); relative to where it is, held for 0.05 s, and limited to the workspace. The goal is the cube's position.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}  # type: ignore[misc]
    state_names = (
        *ARM_JOINTS,
        *_FINGERS,
        *("cube_x", "cube_y", "cube_z", "cube_qw", "cube_qx", "cube_qy", "cube_qz"),
        *(f"{name}_velocity" for name in (*ARM_JOINTS, *_FINGERS)),
        *("cube_vx", "cube_vy", "cube_vz", "cube_wx", "cube_wy", "cube_wz"),
    )
    substeps = SUBSTEPS

    def __init__(self, *, image_size: int = 224, stop_on_success: bool = True, render_mode: str = "rgb_array") -> None:
        scene = load_scene()
        super().__init__(scene, image_size=image_size, stop_on_success=stop_on_success, render_mode=render_mode)
        self._arm = Arm(scene.model)
        self._cube_geom = scene.model.geom("object_0").id
        robot = scene.model.body("ur5e/base").rootid[0]
        self._robot_geoms = np.flatnonzero(scene.model.body_rootid[scene.model.geom_bodyid] == robot)
        self.action_space = spaces.Box(-1.0, 1.0, (5,), np.float32)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(-_FAR, _FAR, (14,), np.float32),
                "state": spaces.Box(-_FAR, _FAR, (len(self.state_names),), np.float32),
            }
        )
        self.set_state(self.sample_state(np.random.default_rng(0)))

    def set_state(self, state: NDArray[Any]) -> None:
        """Put the simulator into ``state`` ``(41,)``; raises ``ValueError`` for a cube without orientation."""
        array = self.check_state(state)
        length = float(np.linalg.norm(array[CUBE_QUATERNION]))
        if abs(length - 1.0) > 0.01:
            raise ValueError(f"state of Cube: found a cube's quaternion of length {length}, expected 1")
        super().set_state(array)

    def control(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the servos' targets ``(7,)``."""
        return self._arm.servo_targets(self._data, action)

    def sample_state(self, rng: np.random.Generator) -> State:
        """Draw the gripper above the table, open and pointing down, and the cube on the table; all at rest."""
        grip = Grip(position=rng.uniform(_START_LOW, WORKSPACE_HIGH), yaw=rng.uniform(-math.pi, math.pi))
        yaw = rng.uniform(0.0, 2 * math.pi)
        state = np.zeros(len(self.state_names))
        state[ARM] = self._arm.joints_for(grip, HOME)
        state[CUBE_POSITION] = *rng.uniform(TABLE_LOW, TABLE_HIGH), CUBE_HALF
        state[CUBE_QUATERNION] = math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
        return state

    @property
    def contact(self) -> bool:
        """Whether the robot touches the cube after the last action."""
        pairs = self._data.contact.geom
        touching = (pairs == self._cube_geom).any(axis=1) & np.isin(pairs, self._robot_geoms).any(axis=1)
        return bool(touching.any())

    @staticmethod
    def distance(state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Return the distance between the cubes' positions divided by 0.04 m."""
        return math.dist(state[CUBE_POSITION], goal[CUBE_POSITION]) / POSITION_TOLERANCE

    @staticmethod
    def proprio_of(state: NDArray[Any]) -> NDArray[Any]:
        """Return the arm's joint angles (6), how far the gripper is closed (1), and their velocities (7)."""
        array = np.asarray(state)
        return array[..., [*range(7), *range(_Q, _Q + 7)]]


@functools.cache
def load_scene() -> Scene:
    """Compile OGBench's model, once per process."""
    from ogbench.manipspace.envs.cube_env import CubeEnv  # loads dm_control

    source = CubeEnv(
        env_type="single", ob_type="pixels", mode="data_collection", visualize_info=False, pixel_transparent_arm=False
    )
    source.reset(seed=0)  # compiles the model, sets the servos' gains and the cube's colour
    model: mujoco.MjModel = source.model
    return Scene(model, camera="front_pixels", view=0.65)  # the camera's view at the gripper, the nearest thing
