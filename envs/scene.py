"""Scenes of rigid discs and boxes: the table that describes one, and the step that leads to the next.

A scene is a table ``(N, 12)`` of objects, one row each, its columns named by ``FIELDS``; a row of zeros is an empty
slot. Flattened it is the state of an environment. The world is a square with a hard border, its y axis points down.

A step is a pure function of the table: the simulator is built anew for it, because pymunk remembers contacts and
corrections of earlier steps, and its result is rounded to float32. So the rows of a data set restore scenes exactly.

Letters: N object slots, P = N(N+1)/2 pairs, of objects (i, j) with i < j or of an object and the border (i, N).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pymunk
from numpy.typing import NDArray

FIELDS = ("present", "box", "fixed", "colour", "half_u", "half_v", "x", "y", "angle", "vx", "vy", "spin")
PRESENT, BOX, FIXED, COLOUR, HALF_U, HALF_V, X, Y, ANGLE, VX, VY, SPIN = range(len(FIELDS))
Table = NDArray[np.float64]
Impulses = NDArray[np.float32]
_SOLID = pymunk.ShapeFilter(categories=1)
_GHOST = pymunk.ShapeFilter(categories=1, mask=pymunk.ShapeFilter.ALL_MASKS() ^ 1)  # meets the border only


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Laws of a world of ``extent`` × ``extent`` units whose border is ``border`` thick; times are seconds.

    A step lasts ``substeps · time_step``. Elasticity and friction are those of every contact, densities are 1 per unit
    of area.
    """

    extent: float = 128.0
    border: float = 4.0
    gravity: float = 0.0
    elasticity: float = 1.0
    friction: float = 0.0
    time_step: float = 0.005
    substeps: int = 10
    iterations: int = 20


@functools.cache
def pairs(slots: int) -> tuple[tuple[int, int], ...]:
    """List the P pairs of objects, the number ``slots`` standing for the border."""
    return tuple(itertools.combinations(range(slots + 1), 2))


def reach(row: Sequence[float]) -> float:
    """Return the radius of the circle around an object."""
    return math.hypot(row[HALF_U], row[HALF_V]) if row[BOX] else row[HALF_U]


def mass_of(row: Sequence[float]) -> float:
    """Return the mass of an object of density 1."""
    return 4 * row[HALF_U] * row[HALF_V] if row[BOX] else math.pi * row[HALF_U] ** 2


def moment_of(row: Sequence[float]) -> float:
    """Return the moment of inertia of an object about its centre."""
    squares = (row[HALF_U] ** 2 + row[HALF_V] ** 2) / 3 if row[BOX] else row[HALF_U] ** 2 / 2
    return mass_of(row) * squares


def delete(table: Table, index: int) -> Table:
    """Return the scene without one object; raises ``ValueError`` when its slot is empty."""
    if not 0 <= index < len(table) or not table[index, PRESENT]:
        present = np.flatnonzero(table[:, PRESENT]).tolist()
        raise ValueError(f"object to delete: found {index}, expected one of those present: {present}")
    rest = np.array(table)
    rest[index] = 0.0
    return rest


def check_table(table: Table) -> None:
    """Raise ``ValueError`` for flags other than 0 and 1, for sizes that are not positive and for filled empty slots."""
    flags = table[:, [PRESENT, BOX, FIXED]]
    present = table[:, PRESENT] == 1
    if not np.isin(flags, (0.0, 1.0)).all():
        raise ValueError(f"scene: found flags (present, box, fixed) {flags.tolist()}, expected 0 or 1")
    if (table[present][:, [HALF_U, HALF_V]] <= 0).any() or table[~present].any():
        raise ValueError(
            f"scene: found sizes {table[:, [HALF_U, HALF_V]].tolist()} of objects with present = "
            f"{table[:, PRESENT].tolist()}, expected positive sizes where 1 and rows of zeros where 0"
        )


def step(
    table: Table,
    physics: Physics,
    *,
    push: tuple[float, float] = (0.0, 0.0),
    ghosts: Collection[int] = (),
    frozen: Collection[int] = (),
) -> tuple[Table, Impulses]:
    """Compute the scene one step later and the impulse ``(P,)`` each pair exchanged meanwhile, 0 without contact.

    ``push`` is added to the velocity of object 0 first. Two laws can be broken: ``ghosts`` pass through other
    objects (not through the border), ``frozen`` objects stay where they are.
    """
    space, bodies = _build(table, physics, ghosts=ghosts, frozen=frozen)
    if 0 in bodies:
        bodies[0].velocity += push
    impulses: dict[tuple[int, int], float] = {}
    space.on_collision(None, None, post_solve=_note_impulse, data=impulses)
    for _ in range(physics.substeps):
        space.step(physics.time_step)
    later = table.copy()
    later[:, [VX, VY, SPIN]] = 0.0
    for index, body in bodies.items():
        later[index, X:] = [*body.position, body.angle % (2 * math.pi), *body.velocity, body.angular_velocity]
    exchanged = [impulses.get(pair, 0.0) for pair in pairs(len(table))]
    return to_float32(later), np.array(exchanged, dtype=np.float32)


def to_float32(table: Table) -> Table:
    """Round to numbers that float32 can hold."""
    return table.astype(np.float32).astype(np.float64)


def _build(
    table: Table, physics: Physics, *, ghosts: Collection[int], frozen: Collection[int]
) -> tuple[pymunk.Space, dict[int, pymunk.Body]]:
    """Make the simulator's copy of a scene; returns the bodies that move, by slot."""
    space = pymunk.Space()
    space.gravity = (0.0, physics.gravity)
    space.iterations = physics.iterations
    _add_border(space, physics, label=len(table))
    bodies: dict[int, pymunk.Body] = {}
    for index in np.flatnonzero(table[:, PRESENT]).tolist():
        row = table[index].tolist()
        static = bool(row[FIXED]) or index in frozen
        kind = pymunk.Body.STATIC if static else pymunk.Body.DYNAMIC
        # Rounding would turn frictionless discs by 1e-16, or by minus that, which is almost 2π.
        moment = moment_of(row) if row[BOX] or physics.friction else math.inf
        body = pymunk.Body(mass_of(row), moment, body_type=kind)
        body.position, body.angle = (row[X], row[Y]), row[ANGLE]
        if not static:
            bodies[index] = body
            body.velocity, body.angular_velocity = (row[VX], row[VY]), row[SPIN]
        shape = _outline(body, row)
        _set_contact(shape, physics, label=index)
        if ghosts:
            shape.filter = _GHOST if index in ghosts else _SOLID
        space.add(body, shape)
    return space, bodies


def _outline(body: pymunk.Body, row: Sequence[float]) -> pymunk.Shape:
    if not row[BOX]:
        return pymunk.Circle(body, row[HALF_U])
    u, v = row[HALF_U], row[HALF_V]
    return pymunk.Poly(body, [(-u, -v), (u, -v), (u, v), (-u, v)])


def _add_border(space: pymunk.Space, physics: Physics, *, label: int) -> None:
    """Put four thick walls around the free square; they reach far out, so that nothing is squeezed through."""
    thick = physics.extent
    low, high = physics.border - thick, physics.extent - physics.border + thick
    corners = [(low, low), (high, low), (high, high), (low, high)]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        wall = pymunk.Segment(space.static_body, start, end, thick)
        _set_contact(wall, physics, label=label)
        space.add(wall)


def _set_contact(shape: pymunk.Shape, physics: Physics, *, label: int) -> None:
    """Name a shape and say how it bounces and slides; a contact takes the product of both shapes' numbers."""
    shape.collision_type = label
    shape.elasticity = math.sqrt(physics.elasticity)
    if physics.friction:  # 0 by default, and attributes are slow
        shape.friction = math.sqrt(physics.friction)


def _note_impulse(arbiter: pymunk.Arbiter, space: pymunk.Space, impulses: dict[tuple[int, int], float]) -> None:
    """Add the impulse of one contact of one substep; pymunk calls this."""
    first, second = sorted(shape.collision_type for shape in arbiter.shapes)
    impulses[first, second] = impulses.get((first, second), 0.0) + arbiter.total_impulse.length
