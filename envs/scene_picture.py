"""Pictures and instance masks of scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jepakit.envs.base import Frame
from jepakit.envs.drawing import Field, Patch, Raster, box, disc, local_axes
from jepakit.envs.scene import ANGLE, BOX, COLOUR, HALF_U, HALF_V, PRESENT, Physics, Table, X, Y, reach

Colour = tuple[float, float, float]
#: What the field ``colour`` counts; the last one is for objects that cannot move.
PALETTE: tuple[Colour, ...] = (
    (214.0, 39.0, 40.0),  # red
    (31.0, 119.0, 180.0),  # blue
    (44.0, 160.0, 44.0),  # green
    (255.0, 187.0, 40.0),  # yellow
    (148.0, 80.0, 200.0),  # purple
    (23.0, 190.0, 207.0),  # cyan
    (255.0, 127.0, 90.0),  # orange
    (227.0, 119.0, 194.0),  # pink
    (70.0, 70.0, 70.0),  # dark grey
)
GREY = len(PALETTE) - 1
_GROUND: Colour = (244.0, 244.0, 240.0)
_BORDER: Colour = (176.0, 176.0, 176.0)
_RIM = 1.2  # world units
_SHADE = 0.6  # of the rim's colour


class Painter:
    """Draws tables ``(N, 12)`` at one image size."""

    def __init__(self, image_size: int, physics: Physics) -> None:
        raster = Raster(image_size=image_size, extent=physics.extent)
        self._raster = raster
        self._fillings = [raster.ink(colour) for colour in PALETTE]
        self._rims = [raster.ink((red * _SHADE, green * _SHADE, blue * _SHADE)) for red, green, blue in PALETTE]
        self._background = np.empty((image_size, image_size, 3), dtype=np.uint8)
        self._background[...] = _BORDER
        whole, middle = raster.tile(0, image_size, 0, image_size), physics.extent / 2
        half = middle - physics.border
        free = box(whole.x, whole.y, u0=middle, v0=middle, half_u=half, half_v=half)
        raster.blend(self._background, whole, [(raster.coverage(free), raster.ink(_GROUND))])
        self._known: tuple[Table, list[tuple[int, Patch, Field]]] | None = None

    def draw(self, out: Frame, table: Table) -> None:
        """Draw a scene into ``out`` ``(S, S, 3)``, overwriting it; later objects cover earlier ones."""
        raster = self._raster
        np.copyto(out, self._background)
        for index, patch, field in self._shapes(table):
            colour = int(table[index, COLOUR])
            rim, filling = raster.coverage(field), raster.coverage(field, grow=-_RIM)
            raster.blend(out, patch, [(rim, self._rims[colour]), (filling, self._fillings[colour])])

    def mask(self, table: Table) -> Frame:
        """Return which object each pixel's centre shows, ``(S, S)`` uint8: 0 for none, i + 1 for object i."""
        size = self._raster.image_size
        mask = np.zeros((size, size), dtype=np.uint8)
        for index, patch, field in self._shapes(table):
            mask[patch.rows, patch.columns][field < 0] = index + 1
        return mask

    def _shapes(self, table: Table) -> list[tuple[int, Patch, Field]]:
        """Find the pixels each object may touch and its signed distance to them; a mask after its picture is free."""
        if self._known is None or not np.array_equal(self._known[0], table):
            rows = table.tolist()
            shapes = [(index, *self._shape(row)) for index, row in enumerate(rows) if row[PRESENT]]
            self._known = table.copy(), shapes
        return self._known[1]

    def _shape(self, row: Sequence[float]) -> tuple[Patch, Field]:
        """Find the pixels an object may touch and its signed distance to them."""
        x, y, r = row[X], row[Y], reach(row)
        patch = self._raster.patch(left=x - r, right=x + r, top=y - r, bottom=y + r)
        if not row[BOX]:
            return patch, disc(patch, x=x, y=y, radius=row[HALF_U])
        u, v = local_axes(patch, x=x, y=y, angle_cos=math.cos(row[ANGLE]), angle_sin=math.sin(row[ANGLE]))
        return patch, box(u, v, u0=0.0, v0=0.0, half_u=row[HALF_U], half_v=row[HALF_V])
