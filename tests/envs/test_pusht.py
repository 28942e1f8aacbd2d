"""Push-T: the public task's physics and pictures, exact states, and a criterion with sharp edges."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import jepakit.envs  # noqa: F401 (registers the environments)
from jepakit.envs.pusht import PushT
from jepakit.envs.pusht_world import (
    AGENT_RADIUS,
    TARGET_POSE,
    block_bounds,
    distance_to_block,
    to_block,
)

Array = NDArray[np.float64]

# Recorded from the public gym-pusht 0.1.8 (pymunk 6.11): its space stepped with relative targets. The block is pushed,
# turned, pressed into the right-hand wall and left there.
REFERENCE_START = (170.0, 230.0, 256.0, 240.0, 0.7, 0.0, 0.0)
REFERENCE = {
    10: (298.093212, 289.754281, 348.155752, 309.299721, 1.352806, 101.207215, 102.71852),
    20: (366.914584, 398.921991, 398.110324, 442.903996, 1.941847, 24.222841, 69.317605),
    40: (293.905768, 288.337958, 418.228472, 440.256438, 1.419142, -49.504208, -104.431515),
    60: (326.064002, 309.35952, 418.228472, 440.256432, 1.419142, 89.505246, 109.654776),
}
FREE = (100.0, 400.0, 350.0, 150.0, 0.3, 0.0, 0.0)  # the pusher far from the block


def reference_action(step: int) -> Array:
    return np.array([0.25 * math.cos(0.09 * step) + 0.1, 0.3 * math.sin(0.13 * step)])


def pusht(state: tuple[float, ...] = REFERENCE_START, *, image_size: int = 16) -> PushT:
    env = PushT(image_size=image_size)
    env.set_state(np.array(state))
    return env


def drive(env: PushT, actions: list[Array]) -> Array:
    states = []
    for action in actions:
        env.advance(action)
        states.append(env.state)
    return np.array(states)


def pushes(count: int = 60) -> list[Array]:
    return [reference_action(step) for step in range(count)]


# -- physics --------------------------------------------------------------------------------------------------------
def test_trajectory_is_that_of_the_public_task() -> None:
    states = drive(pusht(), pushes())
    for step, expected in REFERENCE.items():
        np.testing.assert_allclose(states[step - 1], expected, atol=2e-6)


def test_contact_means_the_block_may_move_and_its_absence_that_it_stays() -> None:
    env, contacts = pusht(), []
    before = env.state
    for action in pushes():
        env.advance(action)
        moved = not np.array_equal(env.state[2:5], before[2:5])
        assert env.contact or not moved or max(block_bounds(tuple(before[2:5]))) > 503.0  # walls push it out, too
        contacts.append(env.contact)
        before = env.state
    assert 10 < sum(contacts) < 50


def test_block_stops_when_the_push_does() -> None:
    env = pusht()
    drive(env, pushes(8))
    assert env.contact
    drive(env, [np.array([-0.5, -0.5])] * 3)
    at_rest = env.state[2:5]
    drive(env, [np.array([-0.5, 0.0])] * 3)
    np.testing.assert_array_equal(env.state[2:5], at_rest)


def test_frictionless_push_through_the_centre_of_gravity_does_not_turn() -> None:
    env = pusht((256.0, 150.0, 256.0, 200.0, 0.0, 0.0, 0.0))
    drive(env, [np.array([0.0, 0.25])] * 12)
    assert env.state[3] > 240.0
    assert abs(math.remainder(env.state[4], 2 * math.pi)) < 1e-9


def test_walls_hold_the_block_but_not_the_pusher() -> None:
    env = pusht((256.0, 300.0, 256.0, 470.0, math.pi, 0.0, 0.0))  # the pusher above the stem, the bar below
    drive(env, [np.array([0.0, 0.1])] * 40)
    left, right, top, bottom = block_bounds(tuple(env.state[2:5]))
    assert min(left, top) > 3.0
    assert max(right, bottom) < 508.0
    env.set_state(np.array(FREE))
    drive(env, [np.array([-0.5, 0.0])] * 10)
    assert env.state[0] < 0.0


def test_action_is_a_relative_target_in_hundreds_of_px_and_never_clipped() -> None:
    start = np.array(FREE)
    single, double = pusht(FREE), pusht(FREE)
    first = drive(single, [np.array([0.9, -0.4])])[0]
    second = drive(double, [np.array([1.8, -0.8])])[0]
    np.testing.assert_allclose(second[:2] - start[:2], 2 * (first[:2] - start[:2]), rtol=1e-9)
    steps = drive(pusht(FREE), [np.array([0.0, -0.25])] * 30)  # the steady speed of a constant action is 40 px per unit
    assert steps[-2, 1] - steps[-1, 1] == pytest.approx(10.0, rel=0.05)
    held = drive(pusht((*FREE[:5], 300.0, 0.0)), [np.zeros(2)] * 20)  # a target at the pusher brakes it
    assert np.abs(held[-1, 5:]).max() < 1e-2


@pytest.mark.parametrize("action", [[np.nan, 0.0], [0.1, 0.2, 0.3], [[0.1, 0.2]], [np.inf, 0.0]])
def test_bad_actions_are_refused(action: list[float]) -> None:
    with pytest.raises(ValueError, match=r"action of PushT: found .* expected 2 finite numbers"):
        pusht().advance(np.array(action))


# -- states ---------------------------------------------------------------------------------------------------------
def test_state_is_restored_in_all_entries() -> None:
    env, rng = pusht(), np.random.default_rng(0)
    for _ in range(50):
        state = env.sample_state(rng)
        state[5:] = rng.uniform(-200.0, 200.0, 2)
        env.set_state(state)
        np.testing.assert_allclose(env.state, state, atol=1e-9)
    env.set_state(np.array([*FREE[:4], -0.5, 0.0, 0.0]))
    assert env.state[4] == pytest.approx(2 * math.pi - 0.5)


def test_what_follows_a_state_depends_on_nothing_before() -> None:
    used = pusht()
    drive(used, pushes(15))
    assert used.contact
    touching = used.state
    drive(used, [np.array([0.8, 0.8])] * 5)  # other contacts, pressed hard
    used.set_state(touching)
    fresh = pusht(tuple(touching))
    np.testing.assert_array_equal(drive(used, pushes(40)), drive(fresh, pushes(40)))


def test_pictures_of_other_states_leave_the_simulator_alone() -> None:
    looked, plain = pusht(), pusht()
    for action in pushes(30):
        looked.picture(np.array(FREE))
        looked.render()
        looked.advance(action)
        plain.advance(action)
        np.testing.assert_array_equal(looked.state, plain.state)
        assert looked.contact == plain.contact
    looked.set_state(np.array(FREE))
    np.testing.assert_array_equal(plain.picture(np.array(FREE)), looked.render())


def test_sampled_states_are_free_and_inside() -> None:
    env, rng = pusht(), np.random.default_rng(1)
    states = np.array([env.sample_state(rng) for _ in range(300)])
    for state in states:
        pose = tuple(state[2:5])
        assert distance_to_block(to_block(state[:2], pose)) > AGENT_RADIUS
        assert 7.0 < min(block_bounds(pose)) < max(block_bounds(pose)) < 504.0
    assert np.ptp(states[:, :4], axis=0).min() > 250.0
    assert np.ptp(states[:, 4]) > 6.0


@pytest.mark.parametrize("state", [np.zeros(5), np.full(7, np.nan)])
def test_bad_states_are_refused(state: Array) -> None:
    env = pusht()
    for use in (env.set_state, env.picture):
        with pytest.raises(ValueError, match="state of PushT"):
            use(state)


# -- criterion --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "met"),
    [
        ((19.999, 0, 0, 0, 0, 0, 0), True),
        ((20.0, 0, 0, 0, 0, 0, 0), False),
        ((0, 0, 0, -19.999, 0, 0, 0), True),
        ((10.0, 10.0, 10.0, 9.999, 0, 0, 0), True),  # pusher and block count together
        ((10.0, 10.0, 10.0, 10.0, 0, 0, 0), False),
        ((0, 0, 0, 0, math.pi / 9 - 1e-6, 0, 0), True),
        ((0, 0, 0, 0, math.pi / 9 + 1e-6, 0, 0), False),
        ((0, 0, 0, 0, 2 * math.pi - 0.3, 0, 0), True),  # the short way round
        ((0, 0, 0, 0, math.pi, 0, 0), False),
        ((0, 0, 0, 0, 0, 500.0, -500.0), True),  # velocities do not count
    ],
)
def test_success_at_the_edges_of_the_criterion(change: tuple[float, ...], met: bool) -> None:
    goal = np.array([200.0, 210.0, 300.0, 310.0, 0.1, 0.0, 0.0])
    state = goal + np.array(change)
    state[4] %= 2 * math.pi
    assert PushT.success(state, goal) is met
    assert PushT.success(goal, state) is met
    assert (PushT.distance(state, goal) < 1.0) is met


def test_step_reports_success_and_ends_the_episode() -> None:
    goal = np.array(FREE) + np.array([30.0, 0, 0, 0, 0, 0, 0])
    for stop in (True, False):
        env = PushT(image_size=16, stop_on_success=stop)
        _, info = env.reset(options={"state": np.array(FREE), "goal": goal})
        assert not info["success"]
        for _ in range(4):
            observation, reward, terminated, truncated, info = env.step(np.array([0.3, 0.0], dtype=np.float32))
            if info["success"]:
                break
        assert (reward, terminated, truncated) == (1.0, stop, False)
        np.testing.assert_array_equal(observation["proprio"], observation["state"][[0, 1, 5, 6]])


def test_gymnasium_accepts_the_environment() -> None:
    check_env(gymnasium.make("jepakit/PushT-v0", image_size=32).unwrapped)


def test_seeded_resets_repeat() -> None:
    first, _ = PushT(image_size=32).reset(seed=5)
    second, _ = PushT(image_size=32).reset(seed=5)
    other, _ = PushT(image_size=32).reset(seed=6)
    np.testing.assert_array_equal(first["pixels"], second["pixels"])
    assert not np.array_equal(first["state"], other["state"])


# -- pictures ---------------------------------------------------------------------------------------------------------
COLOURS = {
    "white": (255, 255, 255),
    "green": (144, 238, 144),
    "line": (119, 136, 153),
    "filling": (143, 163, 184),
    "rim": (65, 105, 225),
    "agent": (78, 126, 255),
    "wall": (211, 211, 211),
}


def supersampled(state: Array, size: int, factor: int) -> Array:
    """Paint the scene by membership tests at factor² points a pixel, top layer last, and average."""
    points = (np.arange(size * factor) + 0.5) * 512.0 / (size * factor) - 0.5
    x, y = np.meshgrid(points, points)
    picture = np.full((*x.shape, 3), 255.0)

    def boxes(pose: tuple[float, float, float], grow: float) -> NDArray[np.bool_]:
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        u, v = cos * (x - pose[0]) + sin * (y - pose[1]), cos * (y - pose[1]) - sin * (x - pose[0])
        bar = (np.abs(u) < 60 + grow) & (v > -grow) & (v < 30 + grow)
        return bar | ((np.abs(u) < 15 + grow) & (v > 30 - grow) & (v < 120 + grow))

    pose = (state[2], state[3], state[4])
    radius = np.hypot(x - state[0], y - state[1])
    edge = np.maximum(np.abs(x - 255.5), np.abs(y - 255.5))
    for mask, name in (
        (boxes(TARGET_POSE, 0.5), "green"),
        (boxes(pose, 2.5), "line"),
        (boxes(pose, -2.5), "filling"),
        (radius < 15, "rim"),
        (radius < 11, "agent"),
        (np.abs(edge - 250.5) < 2.5, "wall"),
    ):
        picture[mask] = COLOURS[name]
    return picture.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))


SCENES = [
    (200.0, 150.0, 256.0, 300.0, 0.7),
    (10.0, 30.0, 300.0, 380.0, 5.5),  # the pusher below a wall
    (256.0, 256.0, *TARGET_POSE),  # the pusher on the block on the target
    (100.0, 400.0, 150.0, 60.0, 3.0),  # the block through a wall
    (503.0, 509.0, 420.0, 100.0, 1.57),  # in a corner
    (-40.0, 256.0, 256.0, 200.0, 4.0),  # the pusher out of sight
]


@pytest.mark.parametrize(("size", "factor"), [(64, 24), (97, 16), (224, 8)])
def test_pictures_agree_with_supersampling(size: int, factor: int) -> None:
    env = PushT(image_size=size)
    for scene in SCENES:
        state = np.array([*scene, 0.0, 0.0])
        error = np.abs(env.picture(state) - supersampled(state, size, factor))
        assert error.max() < 40.0  # at corners, which come out a little too sharp
        assert error.mean() < 0.2


def test_pictures_at_different_sizes_show_the_same() -> None:
    for scene in SCENES:
        state = np.array([*scene, 0.0, 0.0])
        large = PushT(image_size=192).picture(state).reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
        small = PushT(image_size=64).picture(state)
        assert np.abs(large - small).max() < 40.0
        assert np.abs(large - small).mean() < 0.2


def test_drawing_overwrites_whatever_was_there() -> None:
    env, rng = pusht(image_size=64), np.random.default_rng(2)
    reused = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for action in rng.normal(0.0, 0.6, (300, 2)):
        env.advance(action)
        env.draw(reused)
        np.testing.assert_array_equal(reused, PushT(image_size=64).picture(env.state))


def test_colours_are_those_of_the_public_pictures() -> None:
    picture = PushT(image_size=512).picture(np.array([100.0, 400.0, 350.0, 150.0, 0.0, 0.0, 0.0]))
    found = {
        "white": picture[300, 60],
        "green": picture[275, 237],
        "line": picture[150, 350],
        "filling": picture[165, 350],
        "rim": picture[400, 113],
        "agent": picture[400, 100],
        "wall": picture[256, 5],
    }
    assert {name: tuple(colour.tolist()) for name, colour in found.items()} == COLOURS
