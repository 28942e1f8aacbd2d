"""Pictures of Push-T: outlined shapes, filled lighter, like those of the public task (pygame), but anti-aliased."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.base import Frame
from jepakit.envs.drawing import Field, Patch, Raster, box, disc, local_axes
from jepakit.envs.pusht_world import (
    AGENT_RADIUS,
    BAR,
    STEM,
    TARGET_POSE,
    WALL_HIGH,
    WALL_LOW,
    WINDOW,
    Pose,
    Rectangle,
    block_bounds,
)

Colour = tuple[float, float, float]
ROYAL_BLUE: Colour = (65.0, 105.0, 225.0)
LIGHT_SLATE_GRAY: Colour = (119.0, 136.0, 153.0)
LIGHT_GREEN: Colour = (144.0, 238.0, 144.0)
LIGHT_GRAY: Colour = (211.0, 211.0, 211.0)
STROKE = 2.5  # half the width of the lines around the block, and of the walls
AGENT_RIM = 4.0
MARGIN = 0.5  # the public pictures take coordinates as pixel indices, so the window's edge lies at -0.5
LONG_STEM = Rectangle(0.0, 60.0, STEM.half_u, 60.0)  # reaches through the bar, so that no seam is left between them
TARGET_RIM = 0.5  # the target's polygon includes the pixels on its edge


def lighten(colour: Colour) -> Colour:
    """Return the colour that fills a shape whose outline is ``colour``."""
    red, green, blue = (min(255.0, round(1.2 * channel)) for channel in colour)
    return red, green, blue


class Painter:
    """Draws states at one image size, the way the public task's pictures look: outlined shapes, filled lighter."""

    def __init__(self, image_size: int) -> None:
        raster = Raster(image_size=image_size, extent=WINDOW, margin=MARGIN)
        self._raster = raster
        self._agent_inks = raster.ink(ROYAL_BLUE), raster.ink(lighten(ROYAL_BLUE))
        self._block_inks = raster.ink(LIGHT_SLATE_GRAY), raster.ink(lighten(LIGHT_SLATE_GRAY))
        self._wall_ink = raster.ink(LIGHT_GRAY)
        self._border = math.ceil((WALL_LOW + STROKE + MARGIN) / raster.pixel + 0.5)  # pixels that a wall may touch
        self._walls = [(tile, raster.coverage(_wall_distance(tile))) for tile in self._wall_tiles()]
        self._table = np.full((image_size, image_size, 3), 255, dtype=np.uint8)
        target = self._block_patch(TARGET_POSE)
        green = raster.coverage(_block_fields(target, TARGET_POSE)[0], grow=TARGET_RIM)
        raster.blend(self._table, target, [(green, raster.ink(LIGHT_GREEN))])
        self._background = self._table.copy()
        self._paint_walls(self._background)

    def draw(self, out: Frame, state: NDArray[np.float64]) -> None:
        """Draw ``state`` ``(7,)`` into ``out`` ``(S, S, 3)``, overwriting it."""
        raster = self._raster
        x, y, block_x, block_y, angle = state[:5].tolist()
        pose = (block_x, block_y, angle)
        block, agent = self._block_patch(pose), self._agent_patch(x, y)
        meets_wall = self._meets_wall(block) or self._meets_wall(agent)
        np.copyto(out, self._table if meets_wall else self._background)
        union, parts = _block_fields(block, pose)
        line, filling = raster.coverage(union, grow=STROKE), raster.coverage(parts, grow=-STROKE)
        raster.blend(out, block, [(line, self._block_inks[0]), (filling, self._block_inks[1])])
        field = disc(agent, x=x, y=y, radius=AGENT_RADIUS)
        line, filling = raster.coverage(field), raster.coverage(field, grow=-AGENT_RIM)
        raster.blend(out, agent, [(line, self._agent_inks[0]), (filling, self._agent_inks[1])])
        if meets_wall:
            self._paint_walls(out)  # the public pictures show walls above everything else

    def _paint_walls(self, out: Frame) -> None:
        for tile, coverage in self._walls:
            self._raster.blend(out, tile, [(coverage, self._wall_ink)])

    def _wall_tiles(self) -> list[Patch]:
        """Four strips along the edges of the picture that do not overlap."""
        size, border, tile = self._raster.image_size, self._border, self._raster.tile
        return [
            tile(0, size, 0, border),
            tile(0, size, size - border, size),
            tile(0, border, border, size - border),
            tile(size - border, size, border, size - border),
        ]

    def _meets_wall(self, patch: Patch) -> bool:
        low, high = self._border, self._raster.image_size - self._border
        rows, columns = patch.rows, patch.columns
        return bool(rows.start < low or rows.stop > high or columns.start < low or columns.stop > high)

    def _agent_patch(self, x: float, y: float) -> Patch:
        r = AGENT_RADIUS
        return self._raster.patch(left=x - r, right=x + r, top=y - r, bottom=y + r)

    def _block_patch(self, pose: Pose) -> Patch:
        left, right, top, bottom = block_bounds(pose)
        r = STROKE
        return self._raster.patch(left=left - r, right=right + r, top=top - r, bottom=bottom + r)


def _block_fields(patch: Patch, pose: Pose) -> tuple[Field, Field]:
    """Compute the signed distances to the T as a whole and to its parts: a line is drawn where the parts meet."""
    u, v = local_axes(patch, x=pose[0], y=pose[1], angle_cos=math.cos(pose[2]), angle_sin=math.sin(pose[2]))
    bar, stem, overlapping = (
        box(u, v, u0=part.u0, v0=part.v0, half_u=part.half_u, half_v=part.half_v) for part in (BAR, STEM, LONG_STEM)
    )
    return np.minimum(bar, overlapping, out=overlapping), np.minimum(bar, stem, out=stem)


def _wall_distance(patch: Patch) -> Field:
    """Compute the signed distance to the square line of the four walls."""
    middle, half = (WALL_LOW + WALL_HIGH) / 2, (WALL_HIGH - WALL_LOW) / 2
    edge = box(patch.x, patch.y, u0=middle, v0=middle, half_u=half, half_v=half)
    np.abs(edge, out=edge)
    edge -= STROKE
    return edge
