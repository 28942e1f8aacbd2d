"""Cube: OGBench's physics and picture, criterion, policies."""

import numpy as np
import pytest

from jepakit.envs.cube import CUBE_POSITION, CUBE_QUATERNION, POSITION_TOLERANCE, Cube, load_scene
from jepakit.envs.cube_arm import WORKSPACE_HIGH, WORKSPACE_LOW, Arm
from jepakit.envs.cube_policies import CubeExpert, CubeExplorer


@pytest.fixture(scope="module")
def env():
    return Cube(image_size=16)


@pytest.fixture(scope="module")
def ogbench():
    from ogbench.manipspace.envs.cube_env import CubeEnv  # not before jepakit has chosen the renderer

    theirs = CubeEnv(
        env_type="single",
        ob_type="pixels",
        mode="data_collection",
        visualize_info=False,
        pixel_transparent_arm=False,
        width=224,
        height=224,
    )
    theirs.reset(seed=0)
    yield theirs
    theirs._renderer.close()


def test_the_state_is_named_in_the_models_order(env):
    model = load_scene().model
    joints = [model.joint(index).name for index in range(model.njnt)]
    assert joints[-1] == "object_joint_0"
    for name, joint in zip(env.state_names, joints[:-1], strict=False):
        assert joint.rpartition("/")[2] in {f"{name}_joint", name}
    assert model.jnt_qposadr[-1] == CUBE_POSITION.start
    assert env.state_names[21] == "shoulder_pan_velocity"
    assert env.state_names.index("cube_vx") == 21 + model.jnt_dofadr[-1]


def test_every_action_has_the_effect_it_has_in_ogbench(env, ogbench):
    """From the same state: left alone, OGBench computes from kinematics of one simulator step (2 ms) ago."""
    rng = np.random.default_rng(0)
    env.set_state(env.sample_state(rng))
    for action in rng.uniform(-1, 1, (20, 5)):
        ogbench.set_state(env.state[:21], env.state[21:])
        env.advance(action)
        ogbench.step(action)
        assert np.abs(env._data.ctrl - ogbench.data.ctrl).max() < 1e-4
        assert np.abs(env.state[:21] - ogbench.data.qpos).max() < 1e-4
        assert np.abs(env.state[21:] - ogbench.data.qvel).max() < 1e-3


def test_the_picture_is_ogbenchs(env, ogbench):
    state = env.sample_state(np.random.default_rng(1))
    ogbench.set_state(state[:21], state[21:])
    np.testing.assert_array_equal(Cube(image_size=224).picture(state), ogbench.render())


def test_an_action_of_one_is_five_centimetres_and_stays_in_the_workspace(env):
    arm = Arm(load_scene().model)
    env.set_state(env.sample_state(np.random.default_rng(3)))
    before = arm.grip(env.state[:21])
    targets = arm.servo_targets(env._data, np.array([0.0, 0.0, -1.0, 1.0, 0.5]))
    reached = arm.grip(np.concatenate([targets[:6], env.state[6:21]]))
    np.testing.assert_allclose(reached.position - before.position, [0, 0, -0.05], atol=1e-4)
    assert np.cos(reached.yaw - before.yaw - 0.3) > 1 - 1e-6
    assert targets[6] == pytest.approx(127.5)
    for _ in range(30):
        env.advance(np.array([1.0, 0.0, -1.0, 0.0, 0.0]))
    position = arm.grip(env.state[:21]).position
    assert np.all(position > WORKSPACE_LOW - 0.01)
    assert np.all(position < WORKSPACE_HIGH + 0.01)


def test_success_is_the_cubes_position_alone(env):
    state = env.sample_state(np.random.default_rng(0))
    goal = env.sample_state(np.random.default_rng(1))
    goal[CUBE_POSITION] = state[CUBE_POSITION] + [0.0, 0.99 * POSITION_TOLERANCE, 0.0]
    assert env.success(state, goal)
    goal[CUBE_POSITION] = state[CUBE_POSITION] + [0.0, 1.01 * POSITION_TOLERANCE, 0.0]
    assert not env.success(state, goal)


def test_a_cube_without_orientation_is_refused(env):
    state = env.sample_state(np.random.default_rng(0))
    state[CUBE_QUATERNION] = 0.0
    with pytest.raises(ValueError, match="quaternion of length 0"):
        env.set_state(state)


def test_a_start_is_at_rest(env):
    env.set_state(env.sample_state(np.random.default_rng(5)))
    start = env.state
    for _ in range(10):
        env.advance(np.zeros(5))
    assert not env.contact
    np.testing.assert_allclose(env.state[CUBE_POSITION], start[CUBE_POSITION], atol=2e-3)


def test_the_expert_solves_every_pair_by_grasping(env):
    rng = np.random.default_rng(0)
    expert = CubeExpert()
    for _ in range(12):
        start, goal = env.sample_state(rng), env.sample_state(rng)
        env.set_state(start)
        expert.reset(start, goal, rng)
        touched = env.success(start, goal)
        for _ in range(120):
            if env.success(env.state, goal):
                break
            env.advance(expert.act(env.state))
            touched = touched or env.contact
        assert env.success(env.state, goal)
        assert touched
    with pytest.raises(ValueError, match="goal of CubeExpert"):
        expert.reset(env.state, None, rng)


def explore(env, seed, steps=100):
    rng = np.random.default_rng(seed)
    policy = CubeExplorer()
    env.set_state(env.sample_state(rng))
    policy.reset(env.state, None, rng)
    states, actions, contact = [], [], []
    for _ in range(steps):
        states.append(env.state)
        actions.append(policy.act(env.state))
        env.advance(actions[-1])
        contact.append(env.contact)
    return np.array(states), np.array(actions), np.array(contact)


def test_the_explorer_repeats_itself_and_moves_the_cube(env):
    np.testing.assert_array_equal(explore(env, 3, 30)[0], explore(env, 3, 30)[0])
    episodes = [explore(env, seed) for seed in range(12)]
    states, actions, contact = (np.stack(part) for part in zip(*episodes, strict=True))
    cube = states[..., CUBE_POSITION]
    assert contact.mean() > 0.2
    assert np.mean(np.linalg.norm(cube[:, 25:] - cube[:, :-25], axis=2) > POSITION_TOLERANCE) > 0.35
    assert np.mean(cube[..., 2] > 0.03) > 0.1
    assert np.mean(np.abs(actions) == 1.0) > 0.05
    assert np.all(actions.std(axis=(0, 1)) > 0.2)
