"""Reacher: a planar arm of two links, moved by torques, towards goal joint angles.

Physics and picture are dm_control's ``reacher`` with its target removed from sight, as in the public data of LeWM
(arXiv 2603.19312). Angles are radians, torques shares of the motors' maximum.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.envs.base import State
from jepakit.envs.mujoco_scene import MujocoEnv, Scene, mujoco

ANGLE_TOLERANCE = 0.05
WRIST_LIMIT = math.radians(160.0)
ACTION_REPEAT = 2  # simulator steps of 0.02 s
_FAR = 1e6  # the shoulder turns freely; the bound is finite because Gymnasium warns of infinite ones


class Reacher(MujocoEnv):
    """The Reacher task towards a goal state.

    State ``(4,)``: shoulder and wrist angle, their velocities in rad/s. Action ``(2,)``: shoulder and wrist torque,
    held for 0.04 s; the motors saturate at [-1, 1]. As in the public task, turns of the shoulder count: angles that
    differ by 2π look alike and are different goals.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 25}  # type: ignore[misc]
    state_names = ("shoulder", "wrist", "shoulder_velocity", "wrist_velocity")
    angle_names = frozenset({"shoulder", "wrist"})
    substeps = ACTION_REPEAT

    def __init__(self, *, image_size: int = 224, stop_on_success: bool = True, render_mode: str = "rgb_array") -> None:
        super().__init__(load_scene(), image_size=image_size, stop_on_success=stop_on_success, render_mode=render_mode)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(-_FAR, _FAR, (4,), np.float32),
                "state": spaces.Box(-_FAR, _FAR, (4,), np.float32),
            }
        )
        self.set_state(np.zeros(4))

    def control(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """The torques themselves; the model limits them."""
        return action

    def sample_state(self, rng: np.random.Generator) -> State:
        """Draw the shoulder from a full turn and the wrist from its range, at rest."""
        return np.array([rng.uniform(-math.pi, math.pi), rng.uniform(-WRIST_LIMIT, WRIST_LIMIT), 0.0, 0.0])

    @staticmethod
    def distance(state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Return the larger of the two |Δangle| / 0.05 rad."""
        return max(abs(float(state[0] - goal[0])), abs(float(state[1] - goal[1]))) / ANGLE_TOLERANCE

    @staticmethod
    def proprio_of(state: NDArray[Any]) -> NDArray[Any]:
        """Return angles and velocities: the whole state."""
        return np.asarray(state)


@functools.cache
def load_scene() -> Scene:
    """Compile dm_control's model, once per process."""
    from dm_control.suite import reacher  # loads half of dm_control

    xml, assets = reacher.get_model_and_assets()
    model = mujoco.MjModel.from_xml_string(xml.decode(), assets)
    model.geom("target").rgba = 0.0
    model.mat("target").rgba = 0.0
    return Scene(model, camera="fixed", view=0.62)
