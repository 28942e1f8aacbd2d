"""The world of Push-T: sizes, geometry of the T, and the pymunk simulation that the environment steps.

World units are pixels of a 512 × 512 window whose y axis points down. Geometry, masses and the pusher's controller are
those of the public Push-T task and data (Diffusion Policy, arXiv 2303.04137; DINO-WM, arXiv 2411.04983). That task
writes ``friction = 1`` on its bodies, where pymunk does not read it; so contacts are frictionless there and here. Space
damping is 0: the block stops as soon as nothing pushes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pymunk
from numpy.typing import NDArray

WINDOW = 512.0
WALL_LOW, WALL_HIGH, WALL_RADIUS = 5.0, 506.0, 2.0
AGENT_RADIUS = 15.0
ACTION_SCALE = 100.0
POSITION_GAIN, VELOCITY_GAIN = 100.0, 20.0
TIME_STEP, SUBSTEPS = 0.01, 10
TARGET_POSE = (256.0, 256.0, math.pi / 4)
POSITION_TOLERANCE, ANGLE_TOLERANCE = 20.0, math.pi / 9
BLOCK_MASS = 1.0
BLOCK_MOMENT = 3000.0  # twice the bar's moment about the origin, as in the public task
BLOCK_CENTRE = (0.0, 45.0)  # centre of gravity in the block's axes; its origin is the middle of the bar's outer edge


@dataclass(frozen=True)
class Rectangle:
    """One part of the T in the block's axes."""

    u0: float
    v0: float
    half_u: float
    half_v: float

    def corners(self) -> list[tuple[float, float]]:
        """List the four corners, in order around the rectangle."""
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        return [(self.u0 + a * self.half_u, self.v0 + b * self.half_v) for a, b in signs]


BAR = Rectangle(0.0, 15.0, 60.0, 15.0)
STEM = Rectangle(0.0, 75.0, 15.0, 45.0)
T_PARTS = (BAR, STEM)
Pose = tuple[float, float, float]  # x, y, angle of the block


def to_world(points: NDArray[np.float64], pose: Pose) -> NDArray[np.float64]:
    """Move points ``(…, 2)`` from the block's axes to the window, for the pose (x, y, angle)."""
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    u, v = points[..., 0], points[..., 1]
    return np.stack([pose[0] + cos * u - sin * v, pose[1] + sin * u + cos * v], axis=-1)


def to_block(points: NDArray[np.float64], pose: Pose) -> NDArray[np.float64]:
    """Move points ``(…, 2)`` from the window to the block's axes: the inverse of :func:`to_world`."""
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    dx, dy = points[..., 0] - pose[0], points[..., 1] - pose[1]
    return np.stack([cos * dx + sin * dy, cos * dy - sin * dx], axis=-1)


def block_bounds(pose: Pose) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of the upright rectangle around the block."""
    x, y, cos, sin = pose[0], pose[1], math.cos(pose[2]), math.sin(pose[2])
    spans = []
    for part in T_PARTS:
        centre_x, centre_y = x + cos * part.u0 - sin * part.v0, y + sin * part.u0 + cos * part.v0
        half_x = abs(cos) * part.half_u + abs(sin) * part.half_v
        half_y = abs(sin) * part.half_u + abs(cos) * part.half_v
        spans.append((centre_x - half_x, centre_x + half_x, centre_y - half_y, centre_y + half_y))
    (left, right, top, bottom), other = spans
    return min(left, other[0]), max(right, other[1]), min(top, other[2]), max(bottom, other[3])


def distance_to_block(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the distance ``(…)`` from points ``(…, 2)`` in the block's axes to the T; 0 inside."""
    u, v = points[..., 0], points[..., 1]
    squares = []
    for part in T_PARTS:
        gap_u = np.maximum(np.abs(u - part.u0) - part.half_u, 0.0)
        gap_v = np.maximum(np.abs(v - part.v0) - part.half_v, 0.0)
        squares.append(gap_u * gap_u + gap_v * gap_v)
    return np.asarray(np.sqrt(np.minimum(*squares)))


def sample_state(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a state ``(7,)``: pusher in [50, 450]², block in [100, 400]² at any angle, in the walls, not touching."""
    low, high = WALL_LOW + WALL_RADIUS, WALL_HIGH - WALL_RADIUS
    while True:
        agent, block = rng.uniform(50.0, 450.0, 2), rng.uniform(100.0, 400.0, 2)
        pose = (float(block[0]), float(block[1]), rng.uniform(0.0, 2 * math.pi))
        bounds = block_bounds(pose)
        apart = distance_to_block(to_block(agent, pose)) > AGENT_RADIUS
        if apart and min(bounds) > low and max(bounds) < high:
            return np.array([*agent, *pose, 0.0, 0.0])


@dataclass(kw_only=True)
class Touch:
    """Counts the parts of the T that the pusher touches; it knows nothing of the world that updates it."""

    parts: int = 0

    @staticmethod
    def begin(arbiter: pymunk.Arbiter, space: pymunk.Space, touch: Touch) -> None:
        """Note a new contact; pymunk calls this."""
        touch.parts += 1

    @staticmethod
    def separate(arbiter: pymunk.Arbiter, space: pymunk.Space, touch: Touch) -> None:
        """Note the end of a contact; pymunk calls this."""
        touch.parts -= 1


@dataclass(frozen=True, kw_only=True)
class World:
    """The simulated table."""

    space: pymunk.Space
    agent: pymunk.Body
    block: pymunk.Body
    touch: Touch

    def place_block(self, pose: Pose) -> None:
        """Put the block at (x, y, angle)."""
        # Turning is about the centre of gravity and moves the origin, so it goes first.
        self.block.angle = pose[2]
        self.block.position = pose[:2]


def build_world() -> World:
    """Make four walls, a kinematic pusher and the block, all new: pymunk remembers contacts of earlier steps."""
    agent_type, block_type = 1, 2
    space = pymunk.Space()
    space.damping = 0.0
    low, high = WALL_LOW, WALL_HIGH
    corners = [(low, low), (high, low), (high, high), (low, high)]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        space.add(pymunk.Segment(space.static_body, start, end, WALL_RADIUS))
    agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    circle = pymunk.Circle(agent, AGENT_RADIUS)
    circle.collision_type = agent_type
    space.add(agent, circle)
    block = pymunk.Body(BLOCK_MASS, BLOCK_MOMENT)
    block.center_of_gravity = BLOCK_CENTRE
    space.add(block)
    for part in T_PARTS:
        shape = pymunk.Poly(block, part.corners())
        shape.collision_type = block_type
        space.add(shape)
    touch = Touch()
    space.on_collision(agent_type, block_type, begin=Touch.begin, separate=Touch.separate, data=touch)
    return World(space=space, agent=agent, block=block, touch=touch)
