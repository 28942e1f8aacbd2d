"""Push-T's scripted policies: the stroke table tells the truth, ways avoid the block, data are rich, goals are met."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from jepakit.envs.base import ScriptedPolicy
from jepakit.envs.pusht import PushT
from jepakit.envs.pusht_policies import (
    Pace,
    PushTExpert,
    PushTExplorer,
    Stroke,
    action_to,
    move_towards,
    next_position,
)
from jepakit.envs.pusht_strokes import DEPTHS, Options, Router, stroke_table
from jepakit.envs.pusht_world import AGENT_RADIUS, block_bounds, distance_to_block, sample_state, to_block

Array = NDArray[np.float64]
WINDOW_STEPS = 20


def run(env: PushT, policy: ScriptedPolicy, goal: Array, steps: int) -> bool:
    for _ in range(steps):
        env.advance(policy.act(env.state))
        if PushT.success(env.state, goal):
            return True
    return False


class RandomPolicy:
    def reset(self, state: Array, goal: Array | None, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, state: Array) -> NDArray[np.float32]:
        return self._rng.uniform(-1.0, 1.0, 2).astype(np.float32)


# -- knowledge --------------------------------------------------------------------------------------------------------
def test_controller_is_predicted_and_inverted() -> None:
    env, rng = PushT(image_size=16), np.random.default_rng(0)
    for _ in range(50):
        state = sample_state(rng)
        state[5:] = rng.uniform(-150.0, 150.0, 2)
        action = rng.uniform(-1.0, 1.0, 2)
        env.set_state(state)
        env.advance(action)
        np.testing.assert_allclose(env.state[:2], next_position(state, action), atol=1e-9)
        np.testing.assert_allclose(action_to(state, env.state[:2]), action, atol=1e-9)


def test_movement_reaches_its_point_at_its_speed() -> None:
    env = PushT(image_size=16)
    env.set_state(np.array([60.0, 450.0, 380.0, 120.0, 0.0, 0.0, 0.0]))
    point, path = np.array([200.0, 420.0]), [env.state[:2]]
    for _ in range(15):
        env.advance(move_towards(env.state, point, 20.0))
        path.append(env.state[:2])
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() == pytest.approx(20.0, abs=1e-6)
    np.testing.assert_allclose(path[-1], point, atol=1e-6)


def test_strokes_do_at_any_pose_and_pace_what_the_table_says() -> None:
    env, rng = PushT(image_size=16), np.random.default_rng(1)
    moved = []
    for _ in range(25):
        state = sample_state(rng)
        options = Options(state[:2], tuple(state[2:5]))
        row, column = int(rng.choice(np.flatnonzero(np.isfinite(options.walks)))), int(rng.integers(5, DEPTHS))
        if not all(options.fits(row, c) for c in range(column + 1)):
            continue
        stroke = Stroke(options, row, column, Pace(walk=20.0, push=rng.uniform(5.0, 12.0), slack=0.5))
        env.set_state(state)
        while (action := stroke.act(env.state)) is not None:
            env.advance(action)
        x, y, angle = options.outcomes[:, row, column]
        assert math.dist(env.state[2:4], (x, y)) < 5.0
        assert abs(math.remainder(env.state[4] - angle, 2 * math.pi)) < 0.1
        moved.append(math.dist(state[2:4], env.state[2:4]))
    assert len(moved) > 10
    assert np.median(moved) > 15.0


def test_stroke_table_covers_all_sides_and_both_turns() -> None:
    table = stroke_table()
    headings = np.arctan2(table.directions[:, 1], table.directions[:, 0])
    assert np.histogram(headings, bins=8, range=(-np.pi, np.pi))[0].min() > 5
    turns = table.motions[:, -1, 2]
    assert turns.min() < -0.8
    assert turns.max() > 0.8
    assert distance_to_block(table.starts).min() > AGENT_RADIUS + 1.0


def test_ways_lead_around_the_block() -> None:
    rng, pose = np.random.default_rng(2), (256.0, 220.0, 0.6)
    for _ in range(100):
        ends = rng.uniform(-130.0, 180.0, (2, 2))
        if distance_to_block(ends).min() < AGENT_RADIUS + 5.0:
            continue
        ways = Router(ends[1:]).plan(ends[0], pose)
        assert np.isfinite(ways.lengths[0])
        points = np.array([ends[0], *ways.points(0)])
        dense = np.concatenate([np.linspace(a, b, 200) for a, b in itertools.pairwise(points)])
        assert distance_to_block(dense).min() > AGENT_RADIUS
        length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
        assert length == pytest.approx(ways.lengths[0], abs=1e-6)
        assert length >= math.dist(*ends) - 1e-9


def test_ways_avoid_waypoints_beyond_a_wall() -> None:
    targets = np.array([[0.0, -30.0]])
    free = Router(targets).plan(np.array([-90.0, 60.0]), (256.0, 256.0, 0.0))
    walled = Router(targets).plan(np.array([-90.0, 60.0]), (75.0, 256.0, 0.0))  # the bar's left end is at the wall
    assert len(free.points(0)) == 2
    assert free.points(0)[0][0] < 0.0
    assert walled.lengths[0] > free.lengths[0] + 50.0


# -- explorer ---------------------------------------------------------------------------------------------------------
def explore(policy: PushTExplorer, episodes: int, length: int, seed: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """States ``(E, L, 7)``, actions ``(E, L, 2)`` and contacts ``(E, L)``."""
    env = PushT(image_size=16)
    states, actions, contacts = [], [], []
    for episode in range(episodes):
        rng = np.random.default_rng([seed, episode])
        env.set_state(env.sample_state(rng))
        policy.reset(env.state, None, rng)
        for _ in range(length):
            states.append(env.state)
            actions.append(policy.act(env.state))
            env.advance(actions[-1])
            contacts.append(env.contact)
    shape = episodes, length
    return (
        np.array(states).reshape(*shape, 7),
        np.array(actions, dtype=np.float64).reshape(*shape, 2),
        np.array(contacts).reshape(shape),
    )


@pytest.fixture(scope="module")
def explored() -> tuple[Array, Array, NDArray[np.bool_]]:
    return explore(PushTExplorer(), 50, 125, seed=11)


def test_explorer_touches_the_block_in_most_windows(explored: tuple[Array, Array, NDArray[np.bool_]]) -> None:
    states, _, contacts = explored
    windows = np.lib.stride_tricks.sliding_window_view(contacts, WINDOW_STEPS, axis=1)
    assert windows.any(axis=-1).mean() >= 0.6
    travelled = np.hypot(*np.moveaxis(states[:, WINDOW_STEPS:, 2:4] - states[:, :-WINDOW_STEPS, 2:4], -1, 0))
    assert (travelled > 3.0).mean() > 0.5
    assert (np.histogram(states[..., 4], bins=6, range=(0, 2 * np.pi))[0] > 0.05 * states[..., 4].size).all()


def test_explorer_acts_like_a_planner_would(explored: tuple[Array, Array, NDArray[np.bool_]]) -> None:
    _, actions, _ = explored
    assert np.abs(actions).max() <= 1.0
    assert 0.15 < actions.std() < 0.35
    assert (np.abs(actions) > 0.99).mean() > 0.002  # saturated
    assert np.abs(actions.mean(axis=(0, 1))).max() < 0.05
    rough = np.abs(np.diff(actions, n=2, axis=1)).mean(axis=(1, 2)) / actions.std(axis=(1, 2))
    assert np.quantile(rough, 0.9) > 2 * np.quantile(rough, 0.1)  # smooth episodes as well as white ones


def test_explorer_keeps_everything_inside_the_walls(explored: tuple[Array, Array, NDArray[np.bool_]]) -> None:
    states, _, _ = explored
    assert states[..., :2].min() > 5.0
    assert states[..., :2].max() < 506.0
    bounds = np.array([block_bounds(tuple(pose)) for pose in states[..., 2:5].reshape(-1, 3)])
    assert bounds.min() > 2.0
    assert bounds.max() < 509.0


def test_explorer_repeats_with_its_generator() -> None:
    first = explore(PushTExplorer(), 2, 60, seed=3)
    policy = PushTExplorer()
    explore(policy, 1, 20, seed=4)  # nothing of an earlier episode is kept
    np.testing.assert_array_equal(first[1], explore(policy, 2, 60, seed=3)[1])


def test_explorer_pursues_a_given_goal() -> None:
    env, rng = PushT(image_size=16), np.random.default_rng(5)
    policy = PushTExplorer(expert_share=0.0, burst_share=0.0, wander_share=0.0)
    reached = 0
    for _ in range(4):
        env.set_state(env.sample_state(rng))
        goal = env.sample_state(rng)
        policy.reset(env.state, goal, rng)
        reached += run(env, policy, goal, 300)
    assert reached >= 3


@pytest.mark.parametrize("name", ["expert_share", "burst_share", "wander_share"])
def test_shares_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: found 1.5, expected a number from 0 to 1"):
        PushTExplorer(**{name: 1.5})


# -- expert -----------------------------------------------------------------------------------------------------------
def test_expert_solves_random_goal_pairs_and_random_actions_do_not() -> None:
    env, solved = PushT(image_size=16), {"expert": 0, "random": 0}
    policies: dict[str, ScriptedPolicy] = {"expert": PushTExpert(), "random": RandomPolicy()}
    for task in range(15):
        rng = np.random.default_rng([20, task])
        start, goal = env.sample_state(rng), env.sample_state(rng)
        assert not PushT.success(start, goal)
        for name, policy in policies.items():
            env.set_state(start)
            policy.reset(start, goal, rng)
            solved[name] += run(env, policy, goal, 300)
    assert solved["expert"] >= 14
    assert solved["random"] == 0


def test_expert_meets_goals_of_the_data_within_twice_their_distance(
    explored: tuple[Array, Array, NDArray[np.bool_]],
) -> None:
    states, _, _ = explored
    env, policy, solved = PushT(image_size=16), PushTExpert(), []
    for episode in range(0, 50, 2):
        start, goal = states[episode, 40], states[episode, 65]
        if PushT.success(start, goal):
            continue
        env.set_state(start)
        policy.reset(start, goal, np.random.default_rng(episode))
        solved.append(run(env, policy, goal, 50))
    assert len(solved) > 15
    assert np.mean(solved) > 0.85


def test_expert_leaves_a_block_in_place_alone() -> None:
    env, policy = PushT(image_size=16), PushTExpert()
    start = np.array([256.0, 100.0, 256.0, 200.0, 0.2, 0.0, 0.0])
    goal = np.array([256.0, 420.0, 258.0, 201.0, 0.25, 0.0, 0.0])  # the pusher must go around
    env.set_state(start)
    policy.reset(start, goal, np.random.default_rng(0))
    assert run(env, policy, goal, 60)
    np.testing.assert_array_equal(env.state[2:5], start[2:5])


def test_expert_needs_a_goal() -> None:
    with pytest.raises(ValueError, match="goal of PushTExpert: found None"):
        PushTExpert().reset(np.zeros(7), None, np.random.default_rng(0))


def test_pose_conversion_used_by_policies_is_the_simulators() -> None:
    rng = np.random.default_rng(7)
    env = PushT(image_size=16)
    for _ in range(20):
        state = sample_state(rng)
        env.set_state(state)
        point = rng.uniform(0.0, 512.0, 2)
        expected = env._world.block.world_to_local(tuple(point))
        np.testing.assert_allclose(to_block(point, tuple(state[2:5])), expected, atol=1e-9)
