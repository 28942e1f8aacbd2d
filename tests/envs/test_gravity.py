"""Gravity: falling, rolling, resting, and pairs of possible and impossible clips."""

from __future__ import annotations

from collections import Counter

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import jepakit.envs  # noqa: F401 (registers the environments)
from jepakit.envs.gravity import Gravity, Scene
from jepakit.envs.scene import ANGLE, BOX, COLOUR, FIELDS, FIXED, HALF_U, HALF_V, PRESENT, VX, VY, Table, X, Y, pairs
from jepakit.envs.scene_picture import GREY
from jepakit.envs.violations import PairedClip, paired_clips

DISC, BOXED, FLOOR = 0.0, 1.0, 124.0
SCENES: tuple[Scene, ...] = ("ramp", "tower", "drop")
STEP = 0.05


def row(
    shape: float, half: tuple[float, float], x: float, y: float, *, angle: float = 0.0, fixed: bool = False
) -> Table:
    return np.array([1.0, shape, float(fixed), GREY if fixed else 0.0, *half, x, y, angle, 0.0, 0.0, 0.0])


def scene(*rows: Table) -> NDArray[np.float64]:
    table = np.zeros((Gravity.slots, len(FIELDS)))
    table[: len(rows)] = rows
    return table.ravel()


def tables_of(states: NDArray[np.float64]) -> Table:
    return states.reshape(-1, Gravity.slots, len(FIELDS))


@pytest.fixture(scope="module")
def env() -> Gravity:
    return Gravity(image_size=64)


# -- physics ----------------------------------------------------------------------------------------------------------
def test_passes_the_environment_checker() -> None:
    check_env(gymnasium.make("jepakit/Gravity-v0", image_size=32).unwrapped)


def test_things_fall_as_they_should(env: Gravity) -> None:
    tables = tables_of(env.resimulate(scene(row(DISC, (5, 5), 64, 20)), 12).states)
    seconds = STEP * np.arange(1, 13)
    np.testing.assert_allclose(tables[:, 0, VY], 120 * seconds, rtol=1e-4)
    np.testing.assert_allclose(tables[:, 0, Y], 20 + 60 * seconds**2, atol=0.3 * seconds.max())
    np.testing.assert_array_equal(tables[:, 0, X], 64)


def test_a_pile_stands_and_weighs_on_what_is_below(env: Gravity) -> None:
    boxes = [row(BOXED, (8, 5), 64, FLOOR - 5 - 10 * level) for level in range(4)]
    states, contacts = env.resimulate(scene(*boxes), 100)
    last = tables_of(states)[-1, :4]
    np.testing.assert_allclose(last[:, X], 64, atol=0.2)
    np.testing.assert_allclose(last[:, Y], [box[Y] for box in boxes], atol=0.6)
    weight = 160 * 120 * STEP  # impulse by which one box is held for one step
    for below, pair in enumerate([(0, Gravity.slots), (0, 1), (1, 2), (2, 3)]):
        assert contacts[-20:, pairs(Gravity.slots).index(pair)].mean() == pytest.approx((4 - below) * weight, rel=0.02)


def test_a_disc_rolls_down_a_ramp_and_a_box_sticks_to_a_flat_one(env: Gravity) -> None:
    def along(shape: float, slope: float) -> float:
        ramp = row(BOXED, (40, 2.5), 60, 90, angle=slope, fixed=True)
        normal = np.array([np.sin(slope), -np.cos(slope)])
        thing = row(shape, (5, 5), *(ramp[[X, Y]] + 7.5 * normal), angle=slope if shape else 0.0)
        end = tables_of(env.resimulate(scene(thing, ramp), 12).states)[-1, 0]
        return float((end[[X, Y]] - thing[[X, Y]]) @ [np.cos(slope), np.sin(slope)])

    seconds, slope = 12 * STEP, 0.35
    rolling = 120 * np.sin(slope) / 1.5 * seconds**2 / 2  # a third of the work goes into turning
    assert along(DISC, slope) == pytest.approx(rolling, rel=0.1)
    assert abs(along(BOXED, slope)) < 0.5  # tan(0.35) is less than the friction of 0.4
    assert along(BOXED, 0.6) > 5


def test_ramps_and_platforms_stay(env: Gravity) -> None:
    for kind in SCENES:
        start = env.sample_scene(kind, np.random.default_rng(1))
        last = tables_of(env.resimulate(start.ravel(), 40).states)[-1]
        fixed = start[:, FIXED] == 1
        np.testing.assert_array_equal(last[fixed], start[fixed].astype(np.float32))


@pytest.mark.parametrize("kind", SCENES)
def test_scenes_begin_apart_and_end_inside(env: Gravity, kind: Scene) -> None:
    moved, struck = [], []
    for number in range(12):
        table = env.sample_scene(kind, np.random.default_rng([2, number]))
        states, contacts = env.resimulate(table.ravel(), 60)
        there = table[:, PRESENT] == 1
        assert (table[there & (table[:, FIXED] == 1), COLOUR] == GREY).all()
        free = there & (table[:, FIXED] == 0)
        assert len(set(table[free, COLOUR])) == free.sum()
        first, last = tables_of(states)[0], tables_of(states)[-1]
        jump = np.abs(first - table)[free][:, [X, Y]].max()
        assert jump < 0.5 + STEP * np.abs(first[:, [VX, VY]]).max()  # overlapping objects would be thrown apart
        assert (last[there][:, [X, Y]] > 4).all()
        assert (last[there][:, [X, Y]] < FLOOR).all()
        moved.append(np.abs(last - table)[0, [X, Y]].max())
        struck.append(any(hits.any() for pair, hits in zip(pairs(8), contacts.T, strict=True) if 8 not in pair))
    assert np.median(moved) > 10
    assert np.mean(struck) > 0.8


def test_all_kinds_of_scenes_are_drawn_and_their_mirror_images(env: Gravity) -> None:
    tables = [tables_of(env.sample_state(np.random.default_rng([3, number])))[0] for number in range(60)]
    tilt = np.concatenate([table[table[:, FIXED] == 1, ANGLE] for table in tables])
    assert np.any([table[:, PRESENT] for table in tables], axis=0).all()  # every slot is used
    assert min(tilt) < -0.3
    assert max(tilt) > 0.3
    boxes = [int(((t[:, BOX] == 1) & (t[:, FIXED] == 0)).sum()) for t in tables]
    assert sum(count >= 3 for count in boxes) > 10  # towers
    assert sum(not t[:, FIXED].any() for t in tables) > 3  # towers on the floor
    np.testing.assert_array_equal(tables, np.array(tables).astype(np.float32))
    assert all((t[t[:, BOX] == 0][:, HALF_U] == t[t[:, BOX] == 0][:, HALF_V]).all() for t in tables)


def test_a_stored_row_continues_bit_for_bit(env: Gravity) -> None:
    start = env.sample_scene("tower", np.random.default_rng(4)).ravel()
    states, contacts = env.resimulate(start, 50)
    for begin in (5, 30):  # while things lie on each other
        again = Gravity(image_size=16).resimulate(states[begin].astype(np.float32), 49 - begin)
        np.testing.assert_array_equal(again.states, states[begin + 1 :])
        np.testing.assert_array_equal(again.contacts, contacts[begin + 1 :])


# -- impossible continuations ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def clips(env: Gravity) -> list[PairedClip]:
    return list(paired_clips(env, 12, steps=40, context=6, seed=5))


def test_pairs_agree_up_to_the_moment_and_differ_right_after(env: Gravity, clips: list[PairedClip]) -> None:
    assert Counter(clip.kind for clip in clips) == {"pass": 4, "hover": 4, "vanish": 4}
    for clip in clips:
        assert clip.possible_frames.shape == clip.impossible_frames.shape == (40, 64, 64, 3)
        shared = slice(0, clip.moment + 1)
        np.testing.assert_array_equal(clip.possible_frames[shared], clip.impossible_frames[shared])
        np.testing.assert_array_equal(clip.possible_states[shared], clip.impossible_states[shared])
        assert (clip.possible_frames[clip.moment + 1] != clip.impossible_frames[clip.moment + 1]).any()
        assert 6 <= clip.moment + 1 <= 40 - 6
        lawful = env.resimulate(clip.possible_states[0], 39).states
        np.testing.assert_array_equal(clip.possible_states[1:], lawful)


def test_each_violation_is_what_it_says(clips: list[PairedClip]) -> None:
    for clip in clips:
        possible, impossible = (
            tables_of(states)[clip.moment :, clip.index] for states in (clip.possible_states, clip.impossible_states)
        )
        assert not possible[0, FIXED]
        if clip.kind == "vanish":
            assert possible[0, PRESENT]
            assert not impossible[1:].any()
        elif clip.kind == "hover":
            assert possible[0, VY] > 20
            np.testing.assert_array_equal(impossible[1:, [X, Y]], impossible[:1, [X, Y]].repeat(len(impossible) - 1, 0))
        else:
            assert impossible[:, Y].max() > possible[:, Y].max() - 0.5  # nothing but the floor stops it
            assert np.abs(impossible[1:6, Y] - possible[1:6, Y]).max() > 1.0


def test_pairs_depend_on_seed_and_number_alone(env: Gravity, clips: list[PairedClip]) -> None:
    again = list(paired_clips(Gravity(image_size=64), 2, steps=40, context=6, seed=5))
    for first, second in zip(clips, again, strict=False):
        np.testing.assert_array_equal(first.impossible_frames, second.impossible_frames)
    other = next(paired_clips(env, 1, steps=40, context=6, seed=6))
    assert not np.array_equal(other.possible_frames, clips[0].possible_frames)


def test_clips_too_short_for_their_context_are_refused(env: Gravity) -> None:
    with pytest.raises(ValueError, match="steps and context: found 9 and 5"):
        next(paired_clips(env, 1, steps=9, context=5, seed=0))
