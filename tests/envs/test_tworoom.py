"""Two-Room: walls, door, drawing, criterion, policies."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import jepakit.envs  # noqa: F401 (registers the environments)
from jepakit.envs.tworoom import (
    DOOR_Y,
    HIGH,
    LOW,
    SUCCESS_RADIUS,
    WALL_LEFT,
    WALL_RIGHT,
    TwoRoom,
    TwoRoomExpert,
    TwoRoomExplorer,
    is_free,
    move,
)


def test_passes_the_environment_checker():
    check_env(gymnasium.make("jepakit/TwoRoom-v0", image_size=32).unwrapped)


def test_a_step_moves_five_units_and_clips_the_action():
    env = TwoRoom(image_size=16)
    env.set_state([60.0, 150.0])
    env.advance(np.array([1.0, -0.5]))
    np.testing.assert_allclose(env.state, [65.0, 147.5])
    env.advance(np.array([9.0, -9.0]))
    np.testing.assert_allclose(env.state, [70.0, 142.5])


def test_the_wall_stops_the_dot_outside_the_door_only():
    assert move(105.0, 150.0, 5.0, 1.0) == (WALL_LEFT, 151.0)
    assert move(119.0, 150.0, -5.0, 0.0) == (WALL_RIGHT, 150.0)
    x, y = 105.0, DOOR_Y
    for _ in range(4):
        x, y = move(x, y, 5.0, 0.0)
    assert (x, y) == (125.0, DOOR_Y)


def test_the_door_can_be_elsewhere():
    usual, moved = TwoRoom(image_size=32), TwoRoom(image_size=32, door_y=150.0)
    start, goal = np.array([60.0, 100.0]), np.array([180.0, 100.0])
    difference = np.argwhere((usual.picture(start) != moved.picture(start)).any(axis=2))
    assert set(difference[:, 1]) == {15, 16}  # in the wall
    assert {5, 6, 7} <= set(difference[:, 0])  # where the door was
    assert {20, 21, 22} <= set(difference[:, 0])  # where it is
    for env, expert, arrives in (
        (moved, TwoRoomExpert(door_y=150.0), True),
        (usual, TwoRoomExpert(), True),
        (moved, TwoRoomExpert(), False),  # it knows another map
    ):
        env.set_state(start)
        expert.reset(start, goal, np.random.default_rng(0))
        for _ in range(60):
            env.advance(expert.act(env.state))
            assert is_free(env.state, env.door_y)
        assert env.success(env.state, goal) is arrives
    with pytest.raises(ValueError, match="position outside the walls"):
        moved.set_state([112.0, DOOR_Y])
    with pytest.raises(ValueError, match=r"door_y of TwoRoom: found 20.0, expected 28.0 to 196.0"):
        TwoRoom(door_y=20.0)


def test_random_motion_never_enters_a_wall():
    rng = np.random.default_rng(0)
    env = TwoRoom(image_size=16)
    crossed = 0
    for _ in range(60):
        env.set_state(env.sample_state(rng))
        start_left = env.state[0] < 112
        direction = rng.uniform(-1, 1, 2)
        for _ in range(80):
            env.advance(direction + rng.normal(0, 0.4, 2))
            assert is_free(env.state)
            assert env.state.min() >= LOW
            assert env.state.max() <= HIGH
        crossed += (env.state[0] < 112) != start_left
    assert crossed > 0


def test_the_picture_shows_where_the_dot_is_at_any_size():
    for size in (32, 64, 224):
        env = TwoRoom(image_size=size)
        for position in ([60.0, 112.0], [150.0, 49.0], [14.0, 210.0]):
            env.set_state(position)
            frame = env.render().astype(float)
            empty = TwoRoom(image_size=size)._background.astype(float)
            opacity = np.abs(frame - empty).sum(axis=2)
            ys, xs = np.mgrid[:size, :size] + 0.5
            white = empty[..., 0] > 0  # over the black border the dot changes one channel only
            if 40 < position[0] < 100 and position[1] > 40:
                centre = [(opacity * white * axis).sum() / (opacity * white).sum() * 224 / size for axis in (xs, ys)]
                np.testing.assert_allclose(centre, position, atol=0.5)
            assert opacity.max() > 0


def test_drawing_overwrites_what_was_there():
    env = TwoRoom(image_size=48)
    out = np.zeros((48, 48, 3), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(10):
        env.set_state(env.sample_state(rng))
        env.draw(out)
        fresh = TwoRoom(image_size=48)
        fresh.set_state(env.state)
        np.testing.assert_array_equal(out, fresh.render())


def test_success_is_a_radius_of_sixteen_units():
    here = np.array([60.0, 60.0])
    assert TwoRoom.success(here, here + np.array([SUCCESS_RADIUS - 0.01, 0.0]))
    assert not TwoRoom.success(here, here + np.array([SUCCESS_RADIUS, 0.0]))


def test_picture_of_another_state_leaves_the_simulator_alone():
    env = TwoRoom(image_size=32)
    env.set_state([60.0, 60.0])
    before = env.render()
    other = env.picture([150.0, 150.0])
    np.testing.assert_array_equal(env.render(), before)
    assert not np.array_equal(other, before)


@pytest.mark.parametrize("state", [[112.0, 150.0], [5.0, 60.0], [np.nan, 60.0], [60.0], [60.0, 60.0, 60.0]])
def test_impossible_states_are_refused(state):
    with pytest.raises(ValueError, match="state of TwoRoom"):
        TwoRoom(image_size=16).set_state(state)


def test_reset_starts_from_given_states_and_refuses_unknown_options():
    env = TwoRoom(image_size=16)
    observation, info = env.reset(seed=0, options={"state": [60.0, 60.0], "goal": [60.0, 70.0]})
    assert info["success"]
    np.testing.assert_array_equal(observation["state"], [60.0, 60.0])
    with pytest.raises(ValueError, match="reset options"):
        env.reset(options={"goal_state": [60.0, 60.0]})


def test_the_expert_solves_every_pair():
    rng = np.random.default_rng(0)
    env, expert = TwoRoom(image_size=16), TwoRoomExpert()
    for _ in range(100):
        goal = env.sample_state(rng)
        env.set_state(env.sample_state(rng))
        expert.reset(env.state, goal, rng)
        steps = 0
        while not env.success(env.state, goal):
            env.advance(expert.act(env.state))
            steps += 1
            assert steps < 120


def test_the_explorer_repeats_itself_and_covers_both_rooms_and_speeds():
    def episode(seed):
        rng = np.random.default_rng(seed)
        env, policy = TwoRoom(image_size=16), TwoRoomExplorer()
        env.set_state(env.sample_state(rng))
        policy.reset(env.state, None, rng)
        states, actions = [], []
        for _ in range(100):
            states.append(env.state)
            actions.append(policy.act(env.state))
            env.advance(actions[-1])
        return np.array(states), np.array(actions)

    np.testing.assert_array_equal(episode(3)[1], episode(3)[1])
    states, actions = (np.concatenate(part) for part in zip(*(episode(seed) for seed in range(40)), strict=True))
    assert 0.3 < np.mean(states[:, 0] < 112) < 0.7
    assert np.abs(actions).max() == 1.0
    assert np.mean(np.abs(actions) == 1.0) > 0.1
    assert 0.4 < actions.std() < 0.9
