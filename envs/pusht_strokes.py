"""What straight pushes do to the T, and how to walk around it: the knowledge of Push-T's scripted policies.

A stroke begins beside the block's outline and goes straight in one direction. Contacts are frictionless and the block
stops when the push does, so the block's motion, seen from the block, depends neither on its pose nor on the speed:
simulated once, a stroke is a row of a table. Walls are the exception; policies keep away from them.

Shapes: N strokes, K depths, M targets, W waypoints. Lengths are px. "Block axes" are the block's own coordinates.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.pusht_world import (
    AGENT_RADIUS,
    BAR,
    BLOCK_CENTRE,
    STEM,
    TIME_STEP,
    WALL_HIGH,
    WALL_LOW,
    WALL_RADIUS,
    WINDOW,
    Pose,
    block_bounds,
    build_world,
    distance_to_block,
    to_block,
    to_world,
)

Array = NDArray[np.float64]

RUN_UP = 8.0  # between a stroke's start and its contact
SPACING = 8.0  # between neighbouring contacts
TILTS = (-40.0, -20.0, 0.0, 20.0, 40.0)  # degrees between a stroke and the inward normal
DEPTH_STEP, DEPTHS = 4.0, 40  # length of push per column of the table, number of columns
STROKE_DEPTHS = DEPTH_STEP * np.arange(1, DEPTHS + 1)
ROOM = AGENT_RADIUS + WALL_RADIUS  # policies keep the pusher's centre this far inside the walls
CLEARANCE = AGENT_RADIUS + 1.5  # and this far from the block while they walk
CORNER_OFFSET = AGENT_RADIUS + 4.0  # waypoints lie diagonally off the corners, by this much per axis
DETOUR = 400.0  # what passing a waypoint beyond a wall costs

W_BAR, W_STEM = BAR.half_u, STEM.half_u
TOP, INNER, END = 0.0, 2 * BAR.half_v, STEM.v0 + STEM.half_v
#: The T's outline in block axes, in the order in which (along_v, -along_u) points outwards.
OUTLINE = (
    *((-W_BAR, TOP), (W_BAR, TOP), (W_BAR, INNER), (W_STEM, INNER)),
    *((W_STEM, END), (-W_STEM, END), (-W_STEM, INNER), (-W_BAR, INNER)),
)


def near_wall(points: Array) -> NDArray[np.bool_]:
    """Tell where the pusher would be too close to a wall or beyond it, ``(…)`` for points ``(…, 2)``."""
    return np.asarray(((points < WALL_LOW + ROOM) | (points > WALL_HIGH - ROOM)).any(axis=-1))


# -- the table ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Strokes:
    """N straight pushes in block axes."""

    starts: Array  # (N, 2) pusher centres before the run-up
    directions: Array  # (N, 2) unit vectors
    motions: Array  # (N, K, 3) motion (u, v, angle) of the block's origin after each of STROKE_DEPTHS

    def outcomes(self, pose: Pose) -> Array:
        """Predict the block's poses ``(3, N, K)`` (x, y, angle) when it starts from ``pose``."""
        u, v, turn = self.motions[..., 0], self.motions[..., 1], self.motions[..., 2]
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        return np.stack([pose[0] + cos * u - sin * v, pose[1] + sin * u + cos * v, pose[2] + turn])


@functools.lru_cache(maxsize=1)
def stroke_table() -> Strokes:
    """Simulate every stroke once: about 0.3 s, shared by all policies of a process."""
    starts, directions = [], []
    for contact, normal in _contacts():
        for tilt in np.deg2rad(TILTS):
            direction = to_world(-normal, (0.0, 0.0, float(tilt)))
            start = contact - RUN_UP * direction
            if distance_to_block(start) > CLEARANCE:
                starts.append(start)
                directions.append(direction)
    motions = [_simulate(start, direction) for start, direction in zip(starts, directions, strict=True)]
    return Strokes(starts=np.array(starts), directions=np.array(directions), motions=np.array(motions))


def _contacts() -> list[tuple[Array, Array]]:
    """List pusher centres ``(2,)`` that touch the outline, with the outward normals ``(2,)`` there."""
    found = []
    for first, last in zip(OUTLINE, OUTLINE[1:] + OUTLINE[:1], strict=True):
        a, b = np.array(first), np.array(last)
        length = float(np.hypot(*(b - a)))
        along = (b - a) / length
        normal = np.array([along[1], -along[0]])
        count = round(length / SPACING)
        for share in (np.arange(count) + 0.5) / count:
            centre = a + share * (b - a) + AGENT_RADIUS * normal
            if distance_to_block(centre) > AGENT_RADIUS - 1e-6:  # else the T's other part is in the way
                found.append((centre, normal))
    return found


def _simulate(start: Array, direction: Array) -> Array:
    """Simulate one stroke and return the block's motion ``(K, 3)`` in block axes."""
    world = build_world()
    # Upright and with its centre of gravity in the middle of the window, no stroke brings the block to a wall.
    origin = (WINDOW / 2 - BLOCK_CENTRE[0], WINDOW / 2 - BLOCK_CENTRE[1], 0.0)
    world.place_block(origin)
    world.agent.position = tuple(to_world(start, origin).tolist())
    world.agent.velocity = tuple((direction * DEPTH_STEP / 2 / TIME_STEP).tolist())  # two steps a column
    run_up = round(2 * RUN_UP / DEPTH_STEP)
    poses = []
    for _ in range(run_up + 2 * DEPTHS + 1):  # the block follows the pusher one step later
        world.space.step(TIME_STEP)
        poses.append((*world.block.position, world.block.angle))
    motion: Array = np.array(poses)[run_up + 2 :: 2] - np.array(origin)
    return motion


# -- ways around the block ----------------------------------------------------------------------------------------
class Ways:
    """The ways from one place to M targets: what :meth:`Router.plan` found."""

    def __init__(
        self, *, targets: Array, onward: Array, between: Array, to_go: Array, first: Array, direct: Array
    ) -> None:
        self._targets, self._onward, self._between = targets, onward, between
        self._to_go, self._first, self._direct = to_go, first, direct
        #: Length of each way ``(M,)``; infinite where there is none.
        self.lengths: Array = np.minimum(direct, (first[:, None] + to_go).min(axis=0))

    def points(self, target: int) -> list[Array]:
        """List the points ``(2,)`` on the way to a target with a finite length; the last is the target itself."""
        end = [self._targets[target]]
        if self._direct[target] <= self.lengths[target]:
            return end
        at = int((self._first + self._to_go[:, target]).argmin())
        way = [WAYPOINTS[at]]
        while self._to_go[at, target] < self._onward[at, target]:
            at = int((self._between[at] + self._to_go[:, target]).argmin())
            way.append(WAYPOINTS[at])
        return way + end


class Router:
    """Finds the shortest ways of the pusher's centre around the block, over waypoints off its outer corners."""

    def __init__(self, targets: Array) -> None:
        """Prepare ways to ``targets`` ``(M, 2)`` in block axes."""
        self._targets = targets
        self._onward = _free_lengths(WAYPOINTS, targets)

    def plan(self, agent: Array, pose: Pose) -> Ways:
        """Find the ways from ``agent`` ``(2,)``, in block axes, when the block is at ``pose`` between the walls."""
        toll = np.where(near_wall(to_world(WAYPOINTS, pose)), DETOUR, 0.0)
        between = _BETWEEN + toll[None, :]
        to_go = self._onward
        for _ in range(len(WAYPOINTS) // 2):  # no shortest way passes more of them
            to_go = np.minimum(to_go, (between[:, :, None] + to_go[None]).min(axis=1))
        first = _free_lengths(agent[None], WAYPOINTS)[0] + toll
        direct = _free_lengths(agent[None], self._targets)[0]
        return Ways(
            targets=self._targets, onward=self._onward, between=between, to_go=to_go, first=first, direct=direct
        )


def _free_lengths(starts: Array, ends: Array) -> Array:
    """Measure the straight ways ``(A, B)`` between points in block axes; infinite where the block is in between."""
    delta = ends[None] - starts[:, None]
    points = starts[:, None, None] + _SAMPLES * delta[:, :, None]
    need = np.minimum(CLEARANCE, distance_to_block(starts) - 0.25)[:, None, None]  # who touches the block may leave
    free = (distance_to_block(points) >= need).all(axis=-1)
    return np.where(free, np.hypot(delta[..., 0], delta[..., 1]), np.inf)


_SAMPLES = (np.arange(1, 17) / 16.0)[:, None]
_CONVEX = np.array([corner for corner in OUTLINE if corner not in ((W_STEM, INNER), (-W_STEM, INNER))])
WAYPOINTS: Array = _CONVEX + CORNER_OFFSET * np.array([[-1, -1], [1, -1], [1, 1], [1, 1], [-1, 1], [-1, 1]])
_BETWEEN = _free_lengths(WAYPOINTS, WAYPOINTS)
np.fill_diagonal(_BETWEEN, np.inf)


# -- what can be done now -----------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=1)
def _stroke_router() -> Router:
    return Router(stroke_table().starts)


class Options:
    """All strokes that a pusher at ``agent`` ``(2,)`` can make on a block at ``pose``."""

    def __init__(self, agent: Array, pose: Pose) -> None:
        table = stroke_table()
        self._ways = _stroke_router().plan(to_block(agent, pose), pose)
        #: Poses (x, y, angle) of the block after each stroke and depth, ``(3, N, K)``.
        self.outcomes = table.outcomes(pose)
        #: Length of the way to each stroke's start ``(N,)``; infinite where the pusher cannot go.
        self.walks = np.where(near_wall(to_world(table.starts, pose)), np.inf, self._ways.lengths)

    def fits(self, row: int, column: int) -> bool:
        """Whether the block is still inside the walls after stroke ``row`` of depth ``column``."""
        x, y, angle = self.outcomes[:, row, column].tolist()
        bounds = block_bounds((x, y, angle))
        return min(bounds) > WALL_LOW + WALL_RADIUS and max(bounds) < WALL_HIGH - WALL_RADIUS

    def way(self, row: int) -> list[Array]:
        """List the points ``(2,)`` on the way to the start of stroke ``row``, in block axes."""
        return self._ways.points(row)
