"""Shapes: coverage is area, patches are only an economy, layers nest."""

from __future__ import annotations

import numpy as np
import pytest

from jepakit.envs.drawing import Field, Patch, Raster, box, disc, local_axes

SIZE, EXTENT = 48, 120.0
COLOUR = (10.0, 100.0, 200.0)


def raster(margin: float = 0.0) -> Raster:
    return Raster(image_size=SIZE, extent=EXTENT, margin=margin)


def whole(r: Raster) -> Patch:
    return r.tile(0, SIZE, 0, SIZE)


def turned_box(patch: Patch, x: float, y: float, angle: float) -> Field:
    u, v = local_axes(patch, x=x, y=y, angle_cos=np.cos(angle), angle_sin=np.sin(angle))
    return box(u, v, u0=5.0, v0=-3.0, half_u=22.0, half_v=9.0)


def test_area_of_shapes_is_kept() -> None:
    r = raster()
    pixel_area = r.pixel**2
    square = r.coverage(turned_box(whole(r), 61.3, 58.9, 0.0))
    assert square.sum() * pixel_area == pytest.approx(44.0 * 18.0, rel=5e-3)  # corners are a little too sharp
    turned = r.coverage(turned_box(whole(r), 61.3, 58.9, 0.5))
    assert turned.sum() * pixel_area == pytest.approx(44.0 * 18.0, rel=5e-3)
    circle = r.coverage(disc(whole(r), x=47.1, y=63.2, radius=15.0))
    assert circle.sum() * pixel_area == pytest.approx(np.pi * 15.0**2, rel=5e-3)


def test_straight_edge_covers_exactly_its_share_of_a_pixel() -> None:
    r = raster()
    for share in (0.0, 0.25, 0.5, 1.0):
        right = (10 + share) * r.pixel  # the half-plane x < right
        coverage = r.coverage(box(whole(r).x, whole(r).y, u0=0.0, v0=60.0, half_u=right, half_v=500.0))
        np.testing.assert_allclose(coverage[5, 8:13], [1, 1, share, 0, 0], atol=1e-5)


def test_growing_a_shape_is_a_larger_shape() -> None:
    r = raster()
    small = disc(whole(r), x=60.0, y=60.0, radius=20.0)
    np.testing.assert_allclose(
        r.coverage(small, grow=4.0), r.coverage(disc(whole(r), x=60.0, y=60.0, radius=24.0)), atol=1e-5
    )


def test_margin_shifts_the_world() -> None:
    shifted, plain = raster(margin=2.5), raster()  # one pixel
    a = shifted.coverage(disc(whole(shifted), x=50.0, y=50.0, radius=9.0))
    b = plain.coverage(disc(whole(plain), x=52.5, y=52.5, radius=9.0))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("shape", ["disc", "box"])
def test_a_patch_paints_what_the_whole_picture_would(shape: str) -> None:
    r, rng = raster(margin=0.5), np.random.default_rng(0)
    for _ in range(200):
        x, y = rng.uniform(-40.0, EXTENT + 40.0, 2)  # partly and fully outside as well
        angle, reach = rng.uniform(0.0, 2 * np.pi), 12.0 if shape == "disc" else 35.0
        frames = []
        for patch in (r.patch(left=x - reach, right=x + reach, top=y - reach, bottom=y + reach), whole(r)):
            field = disc(patch, x=x, y=y, radius=reach) if shape == "disc" else turned_box(patch, x, y, angle)
            frame = np.full((SIZE, SIZE, 3), 255, dtype=np.uint8)
            r.blend(frame, patch, [(r.coverage(field), r.ink(COLOUR))])
            frames.append(frame)
        np.testing.assert_array_equal(*frames)


def test_nested_layers_let_no_background_through() -> None:
    r = raster()
    frame = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    half = np.full((SIZE, SIZE), 0.5, dtype=np.float32)
    white = r.ink((255.0, 255.0, 255.0))
    r.blend(frame, whole(r), [(half, white), (half, white)])
    assert (frame == 128).all()  # the second layer lies within the first: still half of the black shows
    r.blend(frame, whole(r), [(half, r.ink((0.0, 0.0, 0.0))), (half, r.ink(COLOUR))])
    assert (frame == np.array([69, 114, 164])).all()  # 0.5 · 128 + 0.5 · COLOUR
