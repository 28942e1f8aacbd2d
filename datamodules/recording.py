"""Recording: episodes of an environment as columns of a data set."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store import Codec, Column
from jepakit.envs.base import GoalEnv, ScriptedPolicy


def load_class(name: str) -> Any:  # noqa: ANN401 (a class whose type the caller knows)
    """The class behind a ``module:Class`` name of this package."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_env(name: str, image_size: int) -> GoalEnv:
    """Build an environment from its ``module:Class`` name."""
    env: GoalEnv = load_class(name)(image_size=image_size)
    return env


def columns_of(env: GoalEnv, frames: Codec) -> dict[str, Column]:
    """The columns that :func:`run_episode` fills, the environment's own among them; pictures are stored as ``frames``.

    Masks are pictures too, but must come back unchanged: they are PNG where frames are JPEG.
    """
    state = env.state
    assert env.action_space.shape is not None
    columns = {
        "pixels": Column(dtype="uint8", shape=(env.image_size, env.image_size, 3), codec=frames),
        "action": Column(dtype="float32", shape=env.action_space.shape),
        "state": Column(dtype="float32", shape=state.shape),
        "proprio": Column(dtype="float32", shape=env.proprio_of(state).shape),
    }
    for name, value in {**env.events(), **env.annotations()}.items():
        picture = value.dtype == np.uint8 and value.shape[:2] == (env.image_size, env.image_size)
        codec: Codec = "png" if picture and frames != "raw" else "raw"
        columns[name] = Column(dtype=value.dtype.name, shape=value.shape, codec=codec)
    return columns


def run_episode(env: GoalEnv, policy: ScriptedPolicy, steps: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """One episode of ``steps`` rows as columns ``(steps, …)``; the last action is NaN and without events."""
    columns = columns_of(env, "raw")
    episode = {name: np.zeros((steps, *column.shape), column.dtype) for name, column in columns.items()}
    episode["action"][-1] = np.nan
    env.set_state(env.sample_state(rng))
    policy.reset(env.state, None, rng)
    for step in range(steps):
        state = env.state
        episode["state"][step] = state
        episode["proprio"][step] = env.proprio_of(state)
        env.draw(episode["pixels"][step])
        for name, value in env.annotations().items():
            episode[name][step] = value
        if step < steps - 1:
            episode["action"][step] = policy.act(state)
            env.advance(episode["action"][step])
            for name, value in env.events().items():
                episode[name][step] = value
    return episode
