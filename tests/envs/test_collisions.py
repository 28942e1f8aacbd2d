"""Collisions: physics that can be repeated, pictures and masks that agree with it, counterfactuals."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import jepakit.envs  # noqa: F401 (registers the environments)
from jepakit.envs.collisions import Collisions
from jepakit.envs.counterfactuals import balanced_deletions, deletion_effects, displacement
from jepakit.envs.scene import (
    ANGLE,
    BOX,
    COLOUR,
    FIELDS,
    HALF_U,
    HALF_V,
    PRESENT,
    SPIN,
    VX,
    VY,
    Table,
    X,
    Y,
    delete,
    mass_of,
    moment_of,
    pairs,
)
from jepakit.envs.scene_env import OccasionalPushes
from jepakit.envs.scene_picture import PALETTE

DISC, SQUARE = 0.0, 1.0


def row(shape: float, size: float, x: float, y: float, vx: float = 0.0, vy: float = 0.0, angle: float = 0.0) -> Table:
    return np.array([1.0, shape, 0.0, 0.0, size, size, x, y, angle, vx, vy, 0.0])


def scene(*rows: Table) -> NDArray[np.float64]:
    table = np.zeros((Collisions.slots, len(FIELDS)))
    table[: len(rows)] = rows
    return table.ravel()


def table_of(state: NDArray[np.float64]) -> Table:
    return state.reshape(Collisions.slots, len(FIELDS))


def contact(contacts: NDArray[np.float32], first: int, second: int) -> NDArray[np.float32]:
    return contacts[:, pairs(Collisions.slots).index((first, second))]


def energy_and_momentum(table: Table) -> tuple[float, NDArray[np.float64]]:
    energy, momentum = 0.0, np.zeros(2)
    for entry in table[table[:, PRESENT] == 1].tolist():
        mass = mass_of(entry)
        energy += mass * (entry[VX] ** 2 + entry[VY] ** 2) / 2 + moment_of(entry) * entry[SPIN] ** 2 / 2
        momentum += [mass * entry[VX], mass * entry[VY]]
    return energy, momentum


@pytest.fixture(scope="module")
def env() -> Collisions:
    return Collisions(image_size=64)


def sampled(env: Collisions, number: int) -> NDArray[np.float64]:
    return env.sample_state(np.random.default_rng([7, number]))


# -- physics ----------------------------------------------------------------------------------------------------------
def test_passes_the_environment_checker() -> None:
    check_env(gymnasium.make("jepakit/Collisions-v0", image_size=32).unwrapped)


def test_equal_discs_swap_velocities_and_the_log_says_when_and_how_hard(env: Collisions) -> None:
    states, contacts = env.resimulate(scene(row(DISC, 8, 30, 64, vx=40), row(DISC, 8, 81, 64)), 30)
    tables = states.reshape(30, -1, len(FIELDS))
    np.testing.assert_allclose(tables[-1, 0, [VX, VY]], [0, 0], atol=1e-3)
    np.testing.assert_allclose(tables[-1, 1, [VX, VY]], [40, 0], atol=1e-3)
    impulse = contact(contacts, 0, 1)
    gap, speed, step_time = 81 - 30 - 16, 40.0, 0.05
    assert np.flatnonzero(impulse).tolist() == [int(gap / speed / step_time)]
    assert impulse.sum() == pytest.approx(np.pi * 64 * 40, rel=1e-4)
    assert contacts.sum() == impulse.sum()


def test_walls_reflect(env: Collisions) -> None:
    states, contacts = env.resimulate(scene(row(DISC, 8, 100, 64, vx=40, vy=10)), 20)
    np.testing.assert_allclose(table_of(states[-1])[0, [VX, VY]], [-40, 10], atol=1e-3)
    assert contact(contacts, 0, Collisions.slots).sum() == pytest.approx(np.pi * 64 * 80, rel=1e-4)


def test_energy_and_momentum_are_kept(env: Collisions) -> None:
    wall = [index for index, (_, other) in enumerate(pairs(env.slots)) if other == env.slots]
    kicks, struck = 0, 0
    for number in range(8):
        start = sampled(env, number)
        states, contacts = env.resimulate(start, 60)
        energy = energy_and_momentum(table_of(start))[0]
        assert energy_and_momentum(table_of(states[-1]))[0] == pytest.approx(energy, rel=0.03)
        before = energy_and_momentum(table_of(start))[1]
        for state, impulses in zip(states, contacts, strict=True):
            after = energy_and_momentum(table_of(state))[1]
            if not impulses[wall].any():  # whatever happens between objects
                np.testing.assert_allclose(after, before, rtol=0, atol=1e-3 * np.sqrt(energy * 2e3))
                kicks += impulses.any()
            struck += impulses[wall].any()
            before = after
    assert kicks > 20
    assert struck > 20


def test_objects_stay_apart_and_inside(env: Collisions) -> None:
    for number in range(6):
        for state in env.resimulate(sampled(env, number), 80).states:
            there = table_of(state)[table_of(state)[:, PRESENT] == 1]
            inner = there[:, HALF_U]  # radius of the circle inside
            assert (there[:, [X, Y]] > 4 + inner[:, None] - 1).all()
            assert (there[:, [X, Y]] < 124 - inner[:, None] + 1).all()
            apart = np.linalg.norm(there[:, None, X : Y + 1] - there[None, :, X : Y + 1], axis=-1)
            overlap = inner[:, None] + inner[None] - apart
            assert overlap[~np.eye(len(there), dtype=bool)].max() < 1.0


def test_a_push_moves_object_0_alone(env: Collisions) -> None:
    start = scene(row(DISC, 8, 30, 30), row(SQUARE, 8, 90, 90))
    env.set_state(start)
    env.advance(np.array([0.5, -1.0]))
    np.testing.assert_allclose(table_of(env.state)[0, [VX, VY]], [20, -40], atol=1e-4)
    np.testing.assert_array_equal(table_of(env.state)[1], table_of(start)[1])
    env.set_state(delete(table_of(start), 0).ravel())
    env.advance(np.array([1.0, 1.0]))
    np.testing.assert_array_equal(table_of(env.state)[0], 0)
    with pytest.raises(ValueError, match="action of Collisions: found"):
        env.advance(np.array([np.nan, 0.0]))


# -- repetition and counterfactuals ------------------------------------------------------------------------------------
def test_a_stored_row_continues_bit_for_bit(env: Collisions) -> None:
    rng = np.random.default_rng(0)
    env.set_state(sampled(env, 0))
    actions = rng.uniform(-1, 1, (60, 2)) * (rng.random((60, 1)) < 0.1)
    rows, contacts = [], []
    for action in actions:
        rows.append(env.state.astype(np.float32))  # what a data set holds
        env.advance(action)
        contacts.append(env.events()["contacts"].copy())
    rows.append(env.state.astype(np.float32))
    for begin in (0, 13, 41):
        again = Collisions(image_size=16).resimulate(rows[begin], 60 - begin, actions=actions[begin:])
        np.testing.assert_array_equal(again.states.astype(np.float32), rows[begin + 1 :])
        np.testing.assert_array_equal(again.contacts, contacts[begin:])


def test_resimulation_leaves_the_environment_alone(env: Collisions) -> None:
    env.set_state(sampled(env, 1))
    before = env.state
    env.resimulate(sampled(env, 2), 5)
    np.testing.assert_array_equal(env.state, before)


def test_without_the_object_that_would_hit_it_the_other_stays(env: Collisions) -> None:
    start = scene(row(DISC, 8, 30, 64, vx=40), row(DISC, 8, 81, 64), row(SQUARE, 8, 20, 20))
    states, contacts = env.resimulate(start, 30, without=0)
    assert not contacts.any()
    np.testing.assert_array_equal(states.reshape(30, -1, len(FIELDS))[:, 0], 0)
    np.testing.assert_array_equal(table_of(states[-1])[1:], table_of(start)[1:])
    effects = deletion_effects(env, start, 30)
    struck_for = 30 - int(35 / 40 / 0.05)
    assert effects[0] == pytest.approx(40 * 0.05 * struck_for, abs=2.0)  # how far object 1 would have come
    assert effects[1] == pytest.approx(effects[0], rel=0.05)  # and object 0 without meeting it
    assert effects[2] == 0
    assert np.isnan(effects[3:]).all()
    for bad in (3, 6, -1):
        with pytest.raises(ValueError, match=r"object to delete: found .*, expected one of those present: \[0, 1, 2\]"):
            env.resimulate(start, 3, without=bad)


def test_an_object_matters_only_if_it_takes_part(env: Collisions) -> None:
    for number in range(6):
        state = sampled(env, number)
        _, contacts = env.resimulate(state, 20)
        effects = deletion_effects(env, state, 20)
        taking_part = {i for pair, hits in zip(pairs(6), contacts.T, strict=True) if hits.any() for i in pair}
        for index in np.flatnonzero(effects > 0):
            assert int(index) in taking_part


def test_displacement_ignores_what_is_absent(env: Collisions) -> None:
    state = sampled(env, 0)
    with_all, without = env.resimulate(state, 4).states, env.resimulate(state, 4, without=0).states
    apart = displacement(with_all, without)
    assert apart.shape == (4, 6)
    assert np.isnan(apart[:, 0]).all()


def test_questions_are_balanced() -> None:
    effects = np.array([[0.0, 5.0, np.nan], [0.2, 9.0, 7.0], [3.0, 2.0, 8.0]])
    chosen = balanced_deletions(effects, threshold=1.0, rng=np.random.default_rng(0))
    values = effects[chosen[:, 0], chosen[:, 1]]
    assert sorted(values[values <= 1]) == [0.0, 0.2]
    assert (values > 1).sum() == 2
    assert len({tuple(pair) for pair in chosen.tolist()}) == 4


# -- states ------------------------------------------------------------------------------------------------------------
def test_scenes_vary_in_number_shape_colour_and_motion(env: Collisions) -> None:
    tables = np.array([table_of(sampled(env, number)) for number in range(150)])
    counts = tables[..., PRESENT].sum(axis=1)
    assert np.bincount(counts.astype(int), minlength=7)[4:].min() > 30
    assert (tables[:, 0, PRESENT] == 1).all()
    assert (tables[:, 1:, PRESENT].mean(axis=0) < 0.95).all()  # every other slot is empty at times
    there = tables[tables[..., PRESENT] == 1]
    assert 0.4 < there[:, BOX].mean() < 0.6
    assert (np.hypot(there[:, VX], there[:, VY]) == 0).mean() == pytest.approx(0.25, abs=0.08)
    assert (tables[:, 0, COLOUR] == 0).all()
    for table in tables:
        colours = table[table[:, PRESENT] == 1, COLOUR]
        assert len(set(colours)) == len(colours)
    np.testing.assert_array_equal(tables, tables.astype(np.float32))


@pytest.mark.parametrize(
    ("column", "value"), [(PRESENT, 0.5), (PRESENT, 0.0), (HALF_U, 0.0), (BOX, 2.0), (X, np.nan), (COLOUR, 99.0)]
)
def test_impossible_states_are_refused(env: Collisions, column: int, value: float) -> None:
    state = scene(row(DISC, 8, 30, 64))
    state[column] = value
    with pytest.raises(ValueError, match=r"scene: found|state of Collisions"):
        env.set_state(state)


def test_actions_of_another_length_are_refused(env: Collisions) -> None:
    with pytest.raises(ValueError, match=r"actions: found shape \(3, 2\), expected \(4, 2\)"):
        env.resimulate(sampled(env, 0), 4, actions=np.zeros((3, 2)))


def test_the_goal_is_a_place_for_object_0(env: Collisions) -> None:
    here, there = scene(row(DISC, 8, 30, 64)), scene(row(DISC, 8, 37.9, 64), row(DISC, 8, 90, 90))
    assert env.success(here, there)
    assert not env.success(here, scene(row(DISC, 8, 38.1, 64)))


# -- pictures ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [48, 64, 224])
def test_masks_and_pictures_show_the_objects_where_they_are(size: int) -> None:
    env = Collisions(image_size=size)
    unit = size / env.physics.extent
    for number in range(4):
        state = sampled(env, number)
        env.set_state(state)
        mask, frame = env.annotations()["mask"], env.render().astype(float)
        present = np.flatnonzero(table_of(state)[:, PRESENT])
        assert set(np.unique(mask)) == {0, *(present + 1)}
        for index in present:
            entry = table_of(state)[index].tolist()
            ys, xs = np.nonzero(mask == index + 1)
            np.testing.assert_allclose([xs.mean() + 0.5, ys.mean() + 0.5], [entry[X] * unit, entry[Y] * unit], atol=0.5)
            assert len(xs) == pytest.approx(mass_of(entry) * unit**2, rel=0.2)
            colour = frame[int(entry[Y] * unit), int(entry[X] * unit)]
            np.testing.assert_allclose(colour, PALETTE[int(entry[COLOUR])], atol=1.0)


def test_a_picture_of_another_state_leaves_what_has_happened_alone(env: Collisions) -> None:
    meeting = scene(row(DISC, 9, 40, 64, vx=60), row(DISC, 9, 60, 64))
    env.set_state(meeting)
    while not env.contact:
        env.advance(np.zeros(2, np.float32))
    before = env.events()["contacts"].copy(), env.state
    env.picture(meeting)
    np.testing.assert_array_equal(env.events()["contacts"], before[0])
    np.testing.assert_array_equal(env.state, before[1])
    assert env.contact


def test_pictures_show_the_angle_of_squares(env: Collisions) -> None:
    straight, turned, quarter = (
        env.picture(scene(row(SQUARE, 9, 64, 64, angle=angle))).astype(int) for angle in (0.0, 0.5, np.pi / 2)
    )
    assert np.abs(straight - turned).max() > 50
    assert np.abs(straight - quarter).max() <= 1


def test_drawing_overwrites_what_was_there(env: Collisions) -> None:
    out = np.zeros((64, 64, 3), np.uint8)
    env.set_state(sampled(env, 0))
    env.draw(out)
    env.set_state(sampled(env, 1))
    env.draw(out)
    np.testing.assert_array_equal(out, Collisions(image_size=64).picture(sampled(env, 1)))


# -- policy ------------------------------------------------------------------------------------------------------------
def test_half_of_the_episodes_are_left_alone() -> None:
    policy = OccasionalPushes()
    episodes = []
    for number in range(100):
        policy.reset(np.zeros(72), None, np.random.default_rng([3, number]))
        episodes.append([policy.act(np.zeros(72)) for _ in range(60)])
    actions = np.array(episodes)
    pushed = (actions != 0).any(axis=-1)
    assert 0.35 < 1 - pushed.any(axis=1).mean() < 0.65
    assert pushed[pushed.any(axis=1)].mean() == pytest.approx(0.05, abs=0.015)
    assert np.abs(actions).max() <= 1
    with pytest.raises(ValueError, match=r"push_rate: found 2.0, expected a number from 0 to 1"):
        OccasionalPushes(push_rate=2.0)


def test_spin_and_angle_belong_to_squares(env: Collisions) -> None:
    tables = np.array([table_of(env.resimulate(sampled(env, number), 30).states[-1]) for number in range(5)])
    assert not tables[tables[..., BOX] == DISC][:, [ANGLE, SPIN]].any()  # without friction nothing turns a disc
    assert (tables[tables[..., BOX] == SQUARE][:, SPIN] != 0).mean() > 0.5
    assert np.array_equal(tables[..., HALF_U], tables[..., HALF_V])
