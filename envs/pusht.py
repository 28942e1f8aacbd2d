"""Push-T: a round pusher moves a T-shaped block on a table towards a goal state.

Physics are those of the public task and data (``pusht_world``), pictures look like theirs (``pusht_picture``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.envs.base import Frame, GoalEnv, State
from jepakit.envs.pusht_picture import Painter
from jepakit.envs.pusht_world import (
    ACTION_SCALE,
    ANGLE_TOLERANCE,
    POSITION_GAIN,
    POSITION_TOLERANCE,
    SUBSTEPS,
    TIME_STEP,
    VELOCITY_GAIN,
    build_world,
    sample_state,
)

_FAR = 1e6  # nothing stops the pusher; the bound is finite because Gymnasium warns of infinite ones


class PushT(GoalEnv):
    """The Push-T task towards a goal state.

    State ``(7,)``: pusher x, y; block x, y, angle in [0, 2π); pusher velocity x, y in px/s. Action ``(2,)``: the
    pusher's target relative to its position, in hundreds of px; nominally in [-1, 1] and never clipped. A controller
    (k_p 100, k_v 20, ten sub-steps of 0.01 s) pulls the pusher there. Walls hold the block, not the pusher.
    """

    state_names = ("agent_x", "agent_y", "block_x", "block_y", "block_angle", "agent_vx", "agent_vy")
    angle_names = frozenset({"block_angle"})

    def __init__(self, *, image_size: int = 224, stop_on_success: bool = True, render_mode: str = "rgb_array") -> None:
        super().__init__(image_size=image_size, stop_on_success=stop_on_success, render_mode=render_mode)
        self._painter = Painter(image_size)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        far = np.full(7, _FAR, dtype=np.float32)
        low, high = -far, far.copy()
        low[4], high[4] = 0.0, 2 * math.pi
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(-_FAR, _FAR, (4,), np.float32),
                "state": spaces.Box(low, high, dtype=np.float32),
            }
        )
        self.set_state(np.array([256.0, 400.0, 256.0, 300.0, 0.0, 0.0, 0.0]))

    @property
    def state(self) -> State:
        """Pusher position, block position and angle, pusher velocity, ``(7,)``; see the class."""
        agent, block = self._world.agent, self._world.block
        return np.array([*agent.position, *block.position, block.angle % (2 * math.pi), *agent.velocity])

    def set_state(self, state: NDArray[Any]) -> None:
        """Put the simulator into ``state`` ``(7,)``, with the block at rest.

        The world is built anew: what comes next depends on the state and the actions alone.
        """
        ax, ay, bx, by, angle, vx, vy = self.check_state(state).tolist()
        self._world = build_world()
        self._world.agent.position, self._world.agent.velocity = (ax, ay), (vx, vy)
        self._world.place_block((bx, by, angle))
        self._contact = False

    def sample_state(self, rng: np.random.Generator) -> State:
        """Draw a state whose pusher and block are inside the walls and do not touch; see ``pusht_world``."""
        return sample_state(rng)

    def advance(self, action: NDArray[Any]) -> None:
        """Pull the pusher towards ``position + 100·action`` for 0.1 s; raises ``ValueError`` for a bad action."""
        dx, dy = self._check_action(action)
        agent, step, touch = self._world.agent, self._world.space.step, self._world.touch
        (x, y), (vx, vy) = agent.position, agent.velocity
        target_x, target_y = x + ACTION_SCALE * dx, y + ACTION_SCALE * dy
        contact = False
        for _ in range(SUBSTEPS):
            vx += (POSITION_GAIN * (target_x - x) - VELOCITY_GAIN * vx) * TIME_STEP
            vy += (POSITION_GAIN * (target_y - y) - VELOCITY_GAIN * vy) * TIME_STEP
            agent.velocity = (vx, vy)
            step(TIME_STEP)
            x += vx * TIME_STEP  # what the step does to a kinematic body, without asking it
            y += vy * TIME_STEP
            contact = contact or touch.parts > 0
        self._contact = contact

    @staticmethod
    def _check_action(action: NDArray[Any]) -> tuple[float, float]:
        values = np.asarray(action, dtype=np.float64)
        if values.shape == (2,):
            dx, dy = float(values[0]), float(values[1])
            if math.isfinite(dx) and math.isfinite(dy):
                return dx, dy
        raise ValueError(f"action of PushT: found {values.tolist()}, expected 2 finite numbers (100 px each)")

    @property
    def contact(self) -> bool:
        """Whether the pusher touched the block during the last action."""
        return self._contact

    def draw(self, out: Frame) -> None:
        """Draw the current state into ``out`` ``(S, S, 3)``."""
        self._painter.draw(out, self.state)

    def picture(self, state: NDArray[Any]) -> Frame:
        """Draw another state, ``(S, S, 3)``; the simulator is not involved."""
        out = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        self._painter.draw(out, self.check_state(state))
        return out

    @staticmethod
    def distance(state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Return the larger of ‖Δ(pusher xy, block xy)‖ / 20 px and |Δangle| / (π/9)."""
        offset = math.dist(state[:4], goal[:4])
        turn = abs((float(state[4]) - float(goal[4]) + math.pi) % (2 * math.pi) - math.pi)
        return max(offset / POSITION_TOLERANCE, turn / ANGLE_TOLERANCE)

    @staticmethod
    def proprio_of(state: NDArray[Any]) -> NDArray[Any]:
        """Return the pusher's position and velocity, ``(4,)``."""
        return np.asarray(state)[[0, 1, 5, 6]]
