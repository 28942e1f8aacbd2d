"""Two-Room: a dot that walks between two rooms through one door, and its scripted policies.

World units are the public data set's pixels: a square of 224 with a border of 14, a vertical wall of thickness 10 at
x = 112 and a door of half-size 14, centred at y = 49 unless said otherwise. An action in [-1, 1]² moves the dot by up
to 5 units per axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.envs.base import Frame, GoalEnv, State
from jepakit.envs.noise import CorrelatedNoise

WORLD = 224.0
LOW, HIGH = 14.0, WORLD - 14.0
DOOR_Y, DOOR_HALF = 49.0, 14.0
WALL_X = 112.0
WALL_LEFT, WALL_RIGHT = WALL_X - 5.0, WALL_X + 5.0
SPEED = 5.0
DOT_SIGMA = 7.0
SUCCESS_RADIUS = 16.0
DOOR_REACHED = 10.5
_DOT_REACH = 3.5  # standard deviations after which the dot's opacity is below 1/255


class TwoRoom(GoalEnv):
    """The Two-Room navigation task; state and proprio are the dot's position ``(2,)`` in world units.

    ``door_y`` moves the door, which tells a model that plans from one that repeats what it has seen.
    """

    state_names = ("agent_x", "agent_y")

    def __init__(
        self,
        *,
        image_size: int = 224,
        stop_on_success: bool = True,
        render_mode: str = "rgb_array",
        door_y: float = DOOR_Y,
    ) -> None:
        super().__init__(image_size=image_size, stop_on_success=stop_on_success, render_mode=render_mode)
        if not LOW + DOOR_HALF <= door_y <= HIGH - DOOR_HALF:
            raise ValueError(
                f"door_y of TwoRoom: found {door_y}, expected {LOW + DOOR_HALF} to {HIGH - DOOR_HALF}: the door is "
                "in the wall"
            )
        self.door_y = door_y
        self._position = np.array([60.0, 112.0])
        self._background = _draw_background(image_size, door_y)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(0.0, WORLD, (2,), np.float32),
                "state": spaces.Box(0.0, WORLD, (2,), np.float32),
            }
        )

    @property
    def state(self) -> State:
        """Position of the dot, ``(2,)``."""
        return np.array(self._position)

    def set_state(self, state: NDArray[Any]) -> None:
        """Put the dot at ``state`` ``(2,)``; positions inside a wall are refused."""
        position = self.check_state(state)
        if not is_free(position, self.door_y):
            raise ValueError(f"state of TwoRoom: found {position.tolist()}, expected a position outside the walls")
        self._position = position.copy()

    def sample_state(self, rng: np.random.Generator) -> State:
        """A position drawn uniformly from the two rooms."""
        x = rng.uniform(LOW, HIGH - (WALL_RIGHT - WALL_LEFT))
        return np.array([x if x <= WALL_LEFT else x + WALL_RIGHT - WALL_LEFT, rng.uniform(LOW, HIGH)])

    def advance(self, action: NDArray[Any]) -> None:
        """Move by ``clip(action, -1, 1) · 5`` units; walls stop the dot."""
        dx, dy = (SPEED * min(1.0, max(-1.0, float(a))) for a in action)
        self._position = np.array(move(float(self._position[0]), float(self._position[1]), dx, dy, self.door_y))

    def draw(self, out: Frame) -> None:
        """Copy the rooms and blend the dot into its own patch only."""
        np.copyto(out, self._background)
        size = self.image_size
        scale = size / WORLD
        sigma = DOT_SIGMA * scale
        profiles = []
        for centre in self._position * scale - 0.5:
            low = max(0, int(centre - _DOT_REACH * sigma))
            high = min(size, int(centre + _DOT_REACH * sigma) + 2)
            profiles.append((low, high, np.exp(-0.5 * ((np.arange(low, high) - centre) / sigma) ** 2)))
        (x0, x1, px), (y0, y1, py) = profiles
        opacity = np.multiply.outer(py, px)[..., None]
        patch = out[y0:y1, x0:x1]
        patch[...] = np.rint(patch * (1.0 - opacity) + _RED * opacity)

    @staticmethod
    def distance(state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Euclidean distance divided by the success radius of 16 units."""
        return float(np.hypot(state[0] - goal[0], state[1] - goal[1])) / SUCCESS_RADIUS

    @staticmethod
    def proprio_of(state: NDArray[Any]) -> NDArray[Any]:
        """The position itself."""
        return np.asarray(state)


_RED = np.array([255.0, 0.0, 0.0])


def _draw_background(size: int, door_y: float) -> Frame:
    """White rooms, black border and wall, ``(size, size, 3)``."""
    centres = (np.arange(size) + 0.5) * WORLD / size
    inside = (centres > LOW) & (centres < HIGH)
    wall = (centres > WALL_LEFT) & (centres < WALL_RIGHT)
    door = np.abs(centres - door_y) < DOOR_HALF
    free = inside[:, None] & inside[None, :] & ~(wall[None, :] & ~door[:, None])
    return np.repeat(np.where(free, 255, 0).astype(np.uint8)[..., None], 3, axis=2)


def is_free(position: NDArray[Any], door_y: float = DOOR_Y) -> bool:
    """Whether a position ``(2,)`` lies inside the border and not inside the wall."""
    x, y = float(position[0]), float(position[1])
    in_wall = WALL_LEFT < x < WALL_RIGHT and abs(y - door_y) > DOOR_HALF
    return LOW <= x <= HIGH and LOW <= y <= HIGH and not in_wall


def move(x: float, y: float, dx: float, dy: float, door_y: float = DOOR_Y) -> tuple[float, float]:
    """Where a step of ``(dx, dy)`` from the free position ``(x, y)`` ends: borders and the wall stop it."""
    new_x, new_y = min(HIGH, max(LOW, x + dx)), min(HIGH, max(LOW, y + dy))
    if WALL_LEFT < x < WALL_RIGHT:  # in the door: its jambs hold the dot until it has left
        if WALL_LEFT < new_x < WALL_RIGHT:
            new_y = min(door_y + DOOR_HALF, max(door_y - DOOR_HALF, new_y))
        return new_x, new_y
    face = WALL_LEFT if x <= WALL_LEFT < new_x else WALL_RIGHT if x >= WALL_RIGHT > new_x else None
    if face is None:
        return new_x, new_y
    y_at_face = y + (new_y - y) * (face - x) / (new_x - x)
    if abs(y_at_face - door_y) > DOOR_HALF:
        return face, new_y
    return new_x, min(door_y + DOOR_HALF, max(door_y - DOOR_HALF, new_y))


def expert_direction(position: NDArray[Any], goal: NDArray[Any], door_y: float = DOOR_Y) -> NDArray[np.float64]:
    """The action ``(2,)`` of a walker that knows the map: to the door if it must, then to the goal.

    The vector points at the way-point and has length at most 1 per unit of speed, so the goal is not overshot.
    """
    waypoint = goal
    if (position[0] < WALL_X) != (goal[0] < WALL_X):
        door = np.array([WALL_X, door_y])
        reached = np.hypot(*(position - door)) <= DOOR_REACHED
        beyond = np.array([WALL_X + np.sign(goal[0] - WALL_X) * DOOR_REACHED, door_y])
        waypoint = beyond if reached else door
    delta = (waypoint - position) / SPEED
    return np.asarray(delta / max(1.0, float(np.hypot(*delta))))


class TwoRoomExpert:
    """Walks to the goal through the door, which it knows to be at ``door_y``; the scripted baseline."""

    def __init__(self, *, door_y: float = DOOR_Y) -> None:
        self.door_y = door_y

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Begin an episode towards ``goal`` ``(2,)``."""
        if goal is None:
            raise ValueError("goal of TwoRoomExpert: found None, expected a position (2,)")
        self._goal = np.asarray(goal, dtype=np.float64)

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(2,)``."""
        return expert_direction(np.asarray(state, dtype=np.float64), self._goal, self.door_y).astype(np.float32)


class TwoRoomExplorer:
    """Collects data that cover what a planner will propose.

    Each episode is either a noisy expert that draws a new goal whenever it arrives, or a random walk. Noise scale
    (0.1 to 1.5) and correlation in time (0, 0.7 or 0.95) are drawn per episode: smooth and saturated action
    sequences must be in the data, or the planner finds the model's errors there.
    """

    def __init__(self, *, expert_share: float = 0.75) -> None:
        if not 0.0 <= expert_share <= 1.0:
            raise ValueError(f"expert_share: found {expert_share}, expected a number from 0 to 1")
        self.expert_share = expert_share
        self._map = TwoRoom(image_size=16)

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Draw this episode's kind, noise and first goal."""
        self._rng = rng
        self._expert = rng.random() < self.expert_share
        scale = rng.uniform(0.1, 1.5) if self._expert else rng.uniform(0.5, 1.5)
        self._noise = CorrelatedNoise(2, scale=scale, correlation=float(rng.choice([0.0, 0.7, 0.95])), rng=rng)
        self._goal = self._map.sample_state(rng) if goal is None else np.asarray(goal, dtype=np.float64)

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(2,)``, clipped to [-1, 1]."""
        action = self._noise.sample()
        if self._expert:
            if TwoRoom.success(state, self._goal):
                self._goal = self._map.sample_state(self._rng)
            action = action + expert_direction(np.asarray(state, dtype=np.float64), self._goal)
        return np.clip(action, -1.0, 1.0).astype(np.float32)
