"""Reacher: dm_control's physics and picture, criterion, policies."""

import subprocess
import sys

import numpy as np
import pytest

from jepakit.envs.reacher import ANGLE_TOLERANCE, WRIST_LIMIT, Reacher
from jepakit.envs.reacher_policies import ReacherExpert, ReacherExplorer


@pytest.fixture(scope="module")
def env():
    return Reacher(image_size=16)


@pytest.fixture(scope="module")
def dm_control():
    from dm_control import suite  # not before jepakit has chosen the renderer

    environment = suite.load("reacher", "hard", task_kwargs={"random": 0})
    environment.reset()
    return environment


def test_the_physics_are_dm_controls_with_actions_repeated(env, dm_control):
    rng = np.random.default_rng(0)
    for _ in range(3):
        start = env.sample_state(rng)
        start[2:] = rng.normal(0, 3, 2)
        env.set_state(start)
        with dm_control.physics.reset_context():
            dm_control.physics.set_state(start)
        for _ in range(20):
            action = rng.uniform(-1, 1, 2)
            env.advance(action)
            dm_control.step(action)
            dm_control.step(action)
            np.testing.assert_allclose(env.state, dm_control.physics.get_state(), atol=1e-9)


def test_the_picture_is_dm_controls_without_the_target(env, tmp_path):
    # A process of its own: dm_control's renderer, once collected as garbage, takes the OpenGL context from ours.
    program = """
import sys
import numpy as np
import jepakit.envs.mujoco_scene
from dm_control import suite
environment = suite.load("reacher", "hard", task_kwargs={"random": 0})
environment.reset()
physics = environment.physics
physics.named.model.geom_rgba["target"] = 0.0
physics.named.model.mat_rgba["target"] = 0.0
with physics.reset_context():
    physics.set_state(np.array(sys.argv[2:], dtype=float))
np.save(sys.argv[1], physics.render(224, 224, camera_id=0))
"""
    state = env.sample_state(np.random.default_rng(1))
    arguments = [str(tmp_path / "picture.npy"), *map(str, state)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    np.testing.assert_array_equal(Reacher(image_size=224).picture(state), np.load(tmp_path / "picture.npy"))


def test_the_floor_has_four_quarters_as_in_the_public_data():
    """From version 3.12 on, MuJoCo lays the texture elsewhere; models trained on the public data then fail."""
    frame = Reacher(image_size=224).picture(np.array([np.pi / 4, 0.0, 0.0, 0.0])).astype(int)
    quarters = frame[70, 70], frame[70, 154], frame[154, 70], frame[154, 154]  # the arm is in the second
    dark, light = quarters[0], quarters[2]
    assert np.all(light - dark > 20)
    assert np.abs(quarters[3] - dark).max() < 8


def test_torques_beyond_the_limit_act_as_the_limit(env):
    ends = []
    for torque in (1.0, 5.0):
        env.set_state(np.zeros(4))
        env.advance(np.array([torque, -torque]))
        ends.append(env.state)
    np.testing.assert_array_equal(*ends)


def test_success_is_every_joint_within_the_tolerance(env):
    state = np.array([1.0, -0.5, 3.0, 0.0])
    near, far = 0.99 * ANGLE_TOLERANCE, 1.01 * ANGLE_TOLERANCE
    assert env.success(state, state + np.array([near, -near, 9.0, 9.0]))
    assert not env.success(state, state + np.array([far, 0.0, 0.0, 0.0]))
    assert not env.success(state, state + np.array([0.0, -far, 0.0, 0.0]))
    assert not env.success(state, state + np.array([2 * np.pi, 0.0, 0.0, 0.0]))


def steps_to(env, policy, start, goal, rng, budget):
    env.set_state(start)
    policy.reset(start, goal, rng)
    for step in range(budget):
        if env.success(env.state, goal):
            return step
        env.advance(policy.act(env.state))
    return None


def test_the_expert_solves_every_pair(env):
    rng = np.random.default_rng(0)
    expert = ReacherExpert()
    for _ in range(60):
        assert steps_to(env, expert, env.sample_state(rng), env.sample_state(rng), rng, 75) is not None
    with pytest.raises(ValueError, match="goal of ReacherExpert"):
        expert.reset(env.state, None, rng)


def explore(env, seed, steps=100):
    rng = np.random.default_rng(seed)
    policy = ReacherExplorer()
    env.set_state(env.sample_state(rng))
    policy.reset(env.state, None, rng)
    states, actions = [], []
    for _ in range(steps):
        states.append(env.state)
        actions.append(policy.act(env.state))
        env.advance(actions[-1])
    return np.array(states), np.array(actions)


def test_the_explorer_repeats_itself_and_covers_what_a_planner_proposes(env):
    np.testing.assert_array_equal(explore(env, 3)[1], explore(env, 3)[1])
    episodes = [explore(env, seed) for seed in range(60)]
    states = np.concatenate([states for states, _ in episodes])
    actions = np.stack([actions for _, actions in episodes])
    shares = np.histogram(np.mod(states[:, 0], 2 * np.pi), bins=8)[0] / len(states)
    assert shares.min() > 0.06
    assert states[:, 1].min() < -0.95 * WRIST_LIMIT
    assert states[:, 1].max() > 0.95 * WRIST_LIMIT
    assert 0.1 < np.mean(np.abs(actions) == 1.0) < 0.5
    persistence = [np.corrcoef(episode[1:, 0], episode[:-1, 0])[0, 1] for episode in actions]
    assert min(persistence) < 0.1
    assert max(persistence) > 0.8
