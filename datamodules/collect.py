"""Collect episodes with a scripted policy, in parallel processes, into an episode store."""

from __future__ import annotations

import fcntl
import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store import MANIFEST, Codec, Column, EpisodeStore, fingerprint_of, write_manifest, write_shard
from jepakit.envs.base import GoalEnv, ScriptedPolicy

_EPISODES_PER_SHARD = 25
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything that determines a generated data set, bit for bit.

    ``env`` and ``policy`` are ``module:Class`` names of this package; ``revision`` rises when either changes what it
    produces. Every episode has ``steps`` rows and its own random stream, derived from (seed, episode).
    """

    env: str
    policy: str
    episodes: int
    steps: int
    image_size: int
    seed: int = 0
    frames: Codec = "raw"
    revision: int = 1

    def __post_init__(self) -> None:
        for field in ("episodes", "steps", "image_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} of a collection: found {getattr(self, field)}, expected at least 1")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of these settings."""
        return fingerprint_of(asdict(self))

    def directory(self, root: Path) -> Path:
        """Where this data set lives under ``root``."""
        return root / f"{self.env.rpartition(':')[2].lower()}-{self.image_size}px-{self.fingerprint[:12]}"


def collect(settings: Collection, root: str | Path, *, workers: int = 0, progress: Progress | None = None) -> Path:
    """Generate the data set unless it is there; returns its directory under ``root``.

    Shards are written by ``workers`` processes (0: as many as this process may use) and kept when the run is
    interrupted; the manifest that makes them a data set comes last. A second process that wants the same data waits
    for the first. ``progress(done, total)`` counts episodes.
    """
    final = settings.directory(Path(root))
    if (final / MANIFEST).is_file():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final.with_name(f".{final.name}.lock")):
        if (final / MANIFEST).is_file():
            return final
        partial = final.with_name(f".partial-{final.name}")
        if final.exists():
            raise ValueError(f"{final}: exists without {MANIFEST}; move or delete it")
        partial.mkdir(exist_ok=True)
        _write_shards(settings, partial, workers or len(os.sched_getaffinity(0)), progress)
        write_manifest(partial, asdict(settings), columns_of(settings))
        partial.rename(final)
    EpisodeStore(final)
    return final


def columns_of(settings: Collection) -> dict[str, Column]:
    """The columns that a collection writes."""
    env = make_env(settings.env, settings.image_size)
    state = env.state
    assert env.action_space.shape is not None
    size = settings.image_size
    return {
        "pixels": Column(dtype="uint8", shape=(size, size, 3), codec=settings.frames),
        "action": Column(dtype="float32", shape=env.action_space.shape),
        "state": Column(dtype="float32", shape=state.shape),
        "proprio": Column(dtype="float32", shape=env.proprio_of(state).shape),
        "contact": Column(dtype="bool", shape=()),
    }


def make_env(name: str, image_size: int) -> GoalEnv:
    """Build an environment from its ``module:Class`` name."""
    env: GoalEnv = load_class(name)(image_size=image_size)
    return env


def run_episode(env: GoalEnv, policy: ScriptedPolicy, steps: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """One episode of ``steps`` rows as columns ``(steps, …)``; the last action is NaN."""
    assert env.action_space.shape is not None
    pixels = np.empty((steps, env.image_size, env.image_size, 3), dtype=np.uint8)
    actions = np.full((steps, *env.action_space.shape), np.nan, dtype=np.float32)
    contact = np.zeros(steps, dtype=bool)
    states = np.empty((steps, len(env.state_names)), dtype=np.float64)
    env.set_state(env.sample_state(rng))
    policy.reset(env.state, None, rng)
    for step in range(steps):
        states[step] = env.state
        env.draw(pixels[step])
        if step < steps - 1:
            actions[step] = policy.act(states[step])
            env.advance(actions[step])
            contact[step] = env.contact
    return {
        "pixels": pixels,
        "action": actions,
        "state": states.astype(np.float32),
        "proprio": np.stack([env.proprio_of(state) for state in states]).astype(np.float32),
        "contact": contact,
    }


def load_class(name: str) -> Any:  # noqa: ANN401 (a class whose type the caller knows)
    """The class behind a ``module:Class`` name of this package."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _write_shards(settings: Collection, root: Path, workers: int, progress: Progress | None) -> None:
    count = -(-settings.episodes // _EPISODES_PER_SHARD)
    missing = [shard for shard in range(count) if not _shard_path(root, shard).exists()]
    done = settings.episodes - sum(len(_shard_episodes(settings, shard)) for shard in missing)
    workers = min(workers, len(missing))
    if workers <= 1:
        for shard in missing:
            done += _write_one(settings, root, shard)
            _report(progress, done, settings.episodes)
        return
    # spawn: forking after torch has started its threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(_write_one, settings, root, shard) for shard in missing}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                done += sum(future.result() for future in finished)
                _report(progress, done, settings.episodes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _write_one(settings: Collection, root: Path, shard: int) -> int:
    """Generate and write one shard; returns its number of episodes. Runs in a worker process."""
    env = make_env(settings.env, settings.image_size)
    policy: ScriptedPolicy = load_class(settings.policy)()
    episodes = [
        run_episode(env, policy, settings.steps, np.random.default_rng([settings.seed, episode]))
        for episode in _shard_episodes(settings, shard)
    ]
    write_shard(_shard_path(root, shard), episodes, columns_of(settings))
    return len(episodes)


def _shard_path(root: Path, shard: int) -> Path:
    return root / f"shard-{shard:05d}"


def _shard_episodes(settings: Collection, shard: int) -> range:
    first = shard * _EPISODES_PER_SHARD
    return range(first, min(first + _EPISODES_PER_SHARD, settings.episodes))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; it is released even when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
