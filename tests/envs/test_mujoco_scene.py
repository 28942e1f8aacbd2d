"""What Reacher and Cube share: exact states, pictures that disturb nothing, headless rendering."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import jepakit.envs  # noqa: F401 (registers the environments)
from jepakit.envs import cube, mujoco_scene, reacher
from jepakit.envs.mujoco_scene import Scene, choose_backend

KINDS = {"Reacher": reacher.Reacher, "Cube": cube.Cube}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def env(kind):
    return KINDS[kind](image_size=32)


def moving_state(env, rng):
    """A state with velocities and, in Cube, with contacts."""
    env.set_state(env.sample_state(rng))
    for _ in range(5):
        env.advance(rng.uniform(-1, 1, env.action_space.shape))
    return env.state


def test_passes_the_environment_checker(kind):
    check_env(gymnasium.make(f"jepakit/{kind}-v0", image_size=32).unwrapped)


def test_a_state_and_actions_determine_what_follows(kind, env):
    rng = np.random.default_rng(0)
    start, actions = moving_state(env, rng), rng.uniform(-1, 1, (12, *env.action_space.shape))

    def trajectory(env):
        env.set_state(start)
        states = [env.state]
        for action in actions:
            env.advance(action)
            states.append(env.state)
        return np.array(states)

    expected = trajectory(env)
    np.testing.assert_array_equal(expected[0], start)
    moving_state(env, rng)  # a history of contacts and forces that must leave no trace
    np.testing.assert_array_equal(trajectory(env), expected)
    np.testing.assert_array_equal(trajectory(KINDS[kind](image_size=16)), expected)
    env.set_state(expected[7])
    env.advance(actions[7])
    np.testing.assert_array_equal(env.state, expected[8])


def test_a_picture_of_another_state_leaves_the_simulator_alone(env):
    rng = np.random.default_rng(1)
    other, here = moving_state(env, rng), moving_state(env, rng)
    before, action = env.render(), rng.uniform(-1, 1, env.action_space.shape)
    env.advance(action)
    expected = env.state
    env.set_state(here)
    picture = env.picture(other)
    np.testing.assert_array_equal(env.render(), before)
    assert np.abs(picture.astype(int) - before).max() > 50
    env.advance(action)
    np.testing.assert_array_equal(env.state, expected)
    env.set_state(other)
    np.testing.assert_array_equal(env.render(), picture)


def test_pictures_of_any_size_show_the_same(env):
    state = env.sample_state(np.random.default_rng(2))
    large = type(env)(image_size=224).picture(state)
    for size in (56, 112):
        small = type(env)(image_size=size).picture(state)
        block = 224 // size
        mean = large.reshape(size, block, size, block, 3).mean(axis=(1, 3))
        assert np.abs(mean - small).mean() < 3
        assert np.corrcoef(mean.ravel(), small.ravel())[0, 1] > 0.98


def test_the_coarse_model_of_small_pictures_looks_like_the_full_one(env, monkeypatch):
    monkeypatch.setattr(env, "image_size", 64)
    states = [env.sample_state(np.random.default_rng(seed)) for seed in range(3)]
    coarse = np.stack([env.picture(state) for state in states]).astype(int)
    monkeypatch.setattr(mujoco_scene, "_FULL_DETAIL", 0)
    scene = Scene(env._scene.model, camera=env._scene._camera, view=1.0)
    monkeypatch.setattr(env, "_scene", scene)
    difference = np.abs(np.stack([env.picture(state) for state in states]) - coarse)
    scene.close()
    assert difference.mean() < 0.6
    assert (difference > 16).mean() < 0.02


@pytest.mark.parametrize("spoil", [lambda s: s[:-1], lambda s: np.append(s, 0.0), lambda s: s * np.nan])
def test_impossible_states_are_refused(env, spoil):
    with pytest.raises(ValueError, match=f"state of {type(env).__name__}"):
        env.set_state(spoil(env.sample_state(np.random.default_rng(0))))


def test_bad_actions_are_refused_before_anything_moves(env):
    before = env.state
    for action in (np.zeros(env.action_space.shape[0] + 1), np.full(env.action_space.shape, np.nan)):
        with pytest.raises(ValueError, match=f"action of {type(env).__name__}"):
            env.advance(action)
    np.testing.assert_array_equal(env.state, before)


def test_a_renderer_is_chosen_only_where_the_user_has_not(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    libraries = {"EGL", "OSMesa"}
    monkeypatch.setattr(
        mujoco_scene.ctypes.util, "find_library", lambda name: f"lib{name}.so" if name in libraries else None
    )
    assert choose_backend({}) == "egl"
    assert choose_backend({"MUJOCO_GL": "glfw"}) is None
    assert choose_backend({"DISPLAY": ":0"}) is None
    assert choose_backend({"WAYLAND_DISPLAY": "wayland-0"}) is None
    libraries.discard("EGL")
    assert choose_backend({}) == "osmesa"
    libraries.clear()
    assert choose_backend({}) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    libraries.update({"EGL", "OSMesa"})
    assert choose_backend({}) is None


def test_without_a_renderer_physics_work_and_pictures_say_what_to_install():
    program = """
import os
os.environ["MUJOCO_GL"] = "disabled"
import numpy as np
from jepakit.envs.reacher import Reacher
env = Reacher(image_size=16)
env.advance(np.ones(2))
try:
    env.render()
except RuntimeError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "MuJoCo cannot render" in run.stdout
    assert "apt-get install libegl1" in run.stdout


def test_without_the_extra_it_is_named():
    program = """
import sys
sys.modules["mujoco"] = None
try:
    import jepakit.envs.reacher
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'jepakit[mujoco]'" in run.stdout
