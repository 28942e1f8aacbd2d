"""Gravity: scenes of falling, rolling and toppling objects for intuitive physics, in the spirit of PHYRE.

PHYRE is arXiv 1908.05656; the scenes here are simpler and begin with everything in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from jepakit.envs.scene import ANGLE, COLOUR, FIELDS, FIXED, PRESENT, SPIN, VX, Physics, Table, X
from jepakit.envs.scene_env import SceneEnv, angle_names, state_names
from jepakit.envs.scene_picture import GREY

Scene = Literal["ramp", "tower", "drop"]
Row = list[float]
_THICKNESS = 2.5  # half of a ramp's or a platform's
_GAP = 0.05  # between objects that are put on each other; less than the simulator's own slack of 0.1


class Gravity(SceneEnv):
    """A ramp, a tower or a drop seen from the side, 20 steps a second.

    ``ramp``: object 0 rolls or slides down a ramp towards objects on the floor. ``tower``: object 0, a ball, flies at
    or falls on a pile that may stand on a platform. ``drop``: object 0 falls on a platform, beside others, and may tip
    over its edge. Ramps and platforms are objects too (dark grey, ``fixed``). Everything else is said by ``SceneEnv``.
    """

    slots = 8
    physics = Physics(gravity=120.0, elasticity=0.15, friction=0.4, iterations=30)
    state_names = state_names(slots)
    angle_names = angle_names(slots)

    def sample_table(self, rng: np.random.Generator) -> Table:
        """Draw one of the three scenes, each as often."""
        kinds: tuple[Scene, ...] = ("ramp", "tower", "drop")
        return self.sample_scene(kinds[rng.integers(len(kinds))], rng)

    def sample_scene(self, kind: Scene, rng: np.random.Generator) -> Table:
        """Draw a scene of one kind; its objects but object 0 take random slots, its mirror image is as likely."""
        makers: dict[Scene, Callable[[np.random.Generator, float], list[Row]]]
        makers = {"ramp": _ramp, "tower": _tower, "drop": _drop}
        first, *others = makers[kind](rng, self.physics.extent - self.physics.border)
        table = np.zeros((self.slots, len(FIELDS)))
        table[[0, *(1 + rng.permutation(self.slots - 1)[: len(others)])]] = [first, *others]
        movable = (table[:, PRESENT] == 1) & (table[:, FIXED] == 0)
        movable[0] = False
        table[movable, COLOUR] = 1 + rng.permutation(GREY - 1)[: movable.sum()]
        return _mirror(table, self.physics.extent) if rng.random() < 0.5 else table


def _row(
    half_u: float,
    half_v: float | None,
    x: float,
    y: float,
    *,
    angle: float = 0.0,
    velocity: tuple[float, float] = (0.0, 0.0),
    fixed: bool = False,
) -> Row:
    """Describe a box, or a disc of radius ``half_u`` when ``half_v`` is None."""
    box, height = (0.0, half_u) if half_v is None else (1.0, half_v)
    return [1.0, box, float(fixed), GREY if fixed else 0.0, half_u, height, x, y, angle, *velocity, 0.0]


def _ramp(rng: np.random.Generator, floor: float) -> list[Row]:
    """Draw object 0 at the upper end of a ramp that falls to the right, the ramp, and one to three things below."""
    slope, length = rng.uniform(0.3, 0.55), rng.uniform(26.0, 36.0)
    cos, sin = math.cos(slope), math.sin(slope)
    x = 7.0 + length * cos + rng.uniform(0.0, 10.0)
    y = floor - _GAP - length * sin - _THICKNESS * cos
    half_u = float(rng.uniform(4.5, 7.0))
    half_v = None if rng.random() < 0.5 else float(rng.uniform(3.5, 5.5))
    along, above = half_u + 1.0 - length, _THICKNESS + (half_v or half_u) + _GAP
    speed = rng.uniform(0.0, 25.0)
    place = x + along * cos + above * sin, y + along * sin - above * cos
    rows = [
        _row(half_u, half_v, *place, angle=slope if half_v else 0.0, velocity=(speed * cos, speed * sin)),
        _row(length, _THICKNESS, x, y, angle=slope, fixed=True),
    ]
    left = x + length * cos + 3.0
    for _ in range(rng.integers(1, 4)):
        half_u, half_v = float(rng.uniform(3.5, 6.0)), None if rng.random() < 0.3 else float(rng.uniform(3.5, 9.0))
        left += rng.uniform(2.0, 8.0) + 2 * half_u
        if left > floor:  # the right wall is as far as the floor
            break
        rows.append(_row(half_u, half_v, left - half_u, floor - (half_v or half_u) - _GAP))
    return rows


def _tower(rng: np.random.Generator, floor: float) -> list[Row]:
    """Draw a ball, and a pile of three to five boxes on the floor or on a platform."""
    x, top = rng.uniform(70.0, 92.0), floor
    radius = float(rng.uniform(4.5, 7.0))
    pile: list[Row] = []
    if rng.random() < 0.4:
        top -= rng.uniform(14.0, 30.0)
        pile.append(_row(rng.uniform(13.0, 20.0), _THICKNESS, x, top, fixed=True))
        top -= _THICKNESS
    for _ in range(rng.integers(3, 6)):
        half_u, half_v = rng.uniform(5.5, 9.0), rng.uniform(4.0, 6.5)
        x += rng.uniform(-0.5, 0.5) * half_u
        pile.append(_row(half_u, half_v, x, top - half_v - _GAP))
        top -= 2 * half_v + _GAP
    if rng.random() < 0.7:
        velocity = rng.uniform(80.0, 140.0), rng.uniform(-50.0, 0.0)
        height = rng.uniform(top, (top + floor) / 2)
        ball = _row(radius, None, rng.uniform(14.0, 24.0), height, velocity=velocity)
    else:
        ball = _row(radius, None, x + rng.uniform(-12.0, 12.0), rng.uniform(13.0, top - radius - 4.0))
    return [ball, *pile]


def _drop(rng: np.random.Generator, floor: float) -> list[Row]:
    """Draw two to four things in the air, side by side, and below them a platform, half of the time a tilted one."""
    half, x, y = rng.uniform(14.0, 28.0), rng.uniform(45.0, 83.0), rng.uniform(0.5, 0.75) * floor
    tilt = rng.uniform(-0.15, 0.15) if rng.random() < 0.5 else 0.0
    rows: list[Row] = []
    spans: list[tuple[float, float]] = []
    for _ in range(rng.integers(2, 5)):
        half_u, half_v = float(rng.uniform(4.5, 8.0)), None if rng.random() < 0.5 else float(rng.uniform(3.5, 6.0))
        reach = half_u if half_v is None else math.hypot(half_u, half_v)
        place = x + rng.uniform(-1.1, 1.1) * half
        if all(abs(place - other) > reach + r + 1.0 for other, r in spans):
            spans.append((place, reach))
            angle = 0.0 if half_v is None or rng.random() < 0.4 else rng.uniform(0.0, math.pi)
            rows.append(_row(half_u, half_v, place, rng.uniform(15.0, y - reach - 8.0), angle=angle))
    return [*rows, _row(half, _THICKNESS, x, y, angle=tilt, fixed=True)]


def _mirror(table: Table, extent: float) -> Table:
    """Swap left and right."""
    mirrored = np.array(table)
    present = table[:, PRESENT] == 1
    mirrored[present, X] = extent - table[present, X]
    mirrored[:, [ANGLE, VX, SPIN]] *= -1.0
    return mirrored
