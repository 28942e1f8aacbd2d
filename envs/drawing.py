"""Anti-aliased shapes for square pictures of a square world, drawn only where they are.

A shape is a signed distance (negative inside) at the pixel centres of a small patch; its coverage of a pixel is the
area that a straight edge at that distance cuts off. Lengths are world units. Fields over a patch of h × w pixels have
shape ``(h, w)``; ``frame`` is ``(S, S, 3)`` uint8, C-contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Frame = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A rectangle of pixels, and the world coordinates of their centres."""

    rows: slice
    columns: slice
    x: Field  # (1, w)
    y: Field  # (h, 1)


class Raster:
    """Maps a world of ``extent`` × ``extent`` units to pictures of ``image_size`` × ``image_size`` pixels.

    The world coordinate ``-margin`` lies on the first pixel's outer edge: ``margin=0.5`` reproduces pictures whose
    world coordinates are indices of pixels, ``margin=0`` those whose coordinates are lengths.
    """

    def __init__(self, *, image_size: int, extent: float, margin: float = 0.0) -> None:
        self.image_size = image_size
        self.pixel = extent / image_size
        self._margin = margin
        centres = ((np.arange(image_size) + 0.5) * self.pixel - margin).astype(np.float32)
        self._x, self._y = centres[None, :], centres[:, None]

    def patch(self, *, left: float, right: float, top: float, bottom: float) -> Patch:
        """Return the pixels that a world rectangle may touch; possibly none."""
        return self.tile(*self._pixels(left, right), *self._pixels(top, bottom))

    def tile(self, x0: int, x1: int, y0: int, y1: int) -> Patch:
        """Return the pixels of columns ``x0 ≤ x < x1`` and rows ``y0 ≤ y < y1``."""
        rows, columns = slice(y0, y1), slice(x0, x1)
        return Patch(rows=rows, columns=columns, x=self._x[:, columns], y=self._y[rows])

    def _pixels(self, low: float, high: float) -> tuple[int, int]:
        """Find the first and the last + 1 pixel with a share of ``low`` … ``high``."""
        size = self.image_size  # an edge colours pixels whose centre is up to half a pixel beyond it
        first = (low + self._margin) / self.pixel - 0.5
        last = (high + self._margin) / self.pixel + 0.5
        start = min(max(int(first), 0), size)
        return start, max(start, min(int(last) + 1, size))

    def ink(self, colour: tuple[float, float, float]) -> Field:
        """Repeat ``colour`` (0–255) for a whole row of pixels, ``(3S,)``: what :meth:`blend` takes."""
        return np.tile(np.asarray(colour, dtype=np.float32), self.image_size)

    def coverage(self, distance: Field, *, grow: float = 0.0) -> Field:
        """Compute the share of each pixel inside the shape, grown by ``grow`` units; ``distance`` is left alone."""
        share: Field = distance * (-1.0 / self.pixel)
        share += 0.5 + grow / self.pixel
        return share.clip(0.0, 1.0, out=share)

    def blend(self, frame: Frame, patch: Patch, layers: Sequence[tuple[Field, Field]]) -> None:
        """Paint nested ``(coverage, ink)`` layers into ``frame``; each must lie within the one before it.

        Nested layers share edges: painted one after the other, the background would shine through between them.
        """
        # One column per colour channel: a broadcast over an innermost axis of length three would take most of the time.
        target = frame.reshape(self.image_size, -1)[patch.rows, 3 * patch.columns.start : 3 * patch.columns.stop]
        picture: Field = target.astype(np.float32)
        below: Field | None = None
        for coverage, ink in layers:
            own = ink[: target.shape[1]]
            change = own - (picture if below is None else below)
            picture += coverage.repeat(3, axis=1) * change
            below = own
        picture += 0.5
        target[...] = picture  # truncation after adding a half rounds to nearest


def disc(patch: Patch, *, x: float, y: float, radius: float) -> Field:
    """Compute the signed distance to a disc."""
    distance: Field = np.square(patch.x - x) + np.square(patch.y - y)
    np.sqrt(distance, out=distance)
    distance -= radius
    return distance


def box(u: Field, v: Field, *, u0: float, v0: float, half_u: float, half_v: float) -> Field:
    """Compute the signed distance to a box around ``(u0, v0)``, in the maximum norm, which keeps its corners sharp."""
    gap_u: Field = np.abs(u - u0)
    gap_u -= half_u
    gap_v: Field = np.abs(v - v0)
    gap_v -= half_v
    return np.maximum(gap_u, gap_v)


def local_axes(patch: Patch, *, x: float, y: float, angle_cos: float, angle_sin: float) -> tuple[Field, Field]:
    """Compute the coordinates ``(u, v)`` of the patch's pixels in the axes of a body at ``(x, y)``."""
    dx, dy = patch.x - x, patch.y - y
    return angle_cos * dx + angle_sin * dy, angle_cos * dy - angle_sin * dx
