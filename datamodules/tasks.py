"""Tasks and windows from the held-out episodes of a data module, and the environment in which tasks are tried.

Shape letters: P windows, T frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.recording import load_class, make_env
from jepakit.datamodules.splits import Part
from jepakit.datamodules.windows import WindowDataset, WindowSpec
from jepakit.envs.base import GoalEnv
from jepakit.planning.evaluation.manifest import Manifest, draw_tasks


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Which tasks: ``count`` of them with goals ``offset`` steps ahead in held-out episodes, or a frozen ``list``.

    ``split`` is "val" only while settings are being chosen; a success rate is about "test". ``goals`` are those of the
    "episode", or "drawn" by the environment: then no demonstration ends there, ``offset`` only sets the budget, and
    how many tasks can be solved at all is what the scripted policy says.
    """

    count: int = 50
    offset: int = 25
    seed: int = 0
    split: str = "test"
    goals: str = "episode"
    list: str | None = None

    def __post_init__(self) -> None:
        if self.split not in ("val", "test"):
            raise ValueError(f"split of the tasks: found {self.split!r}, expected 'test', or 'val' to choose settings")
        if self.goals not in ("episode", "drawn"):
            raise ValueError(f"goals of the tasks: found {self.goals!r}, expected 'episode' or 'drawn'")
        for name in ("count", "offset"):
            if getattr(self, name) < 1:
                raise ValueError(f"tasks.{name}: found {getattr(self, name)}, expected at least 1")


def environment_factory(data: EpisodeDataModule) -> Callable[[], GoalEnv]:
    """Builds the data's environment at the data's frame size."""
    if data.env is None:
        raise ValueError(f"{type(data).__name__}: no environment belongs to this data; use TwoRoom or PushT")
    return functools.partial(make_env, data.env, data.image_size)


def tasks_of(data: EpisodeDataModule, config: TaskConfig) -> Manifest:
    """Draw the tasks from the held-out episodes of ``data``, or read the list.

    Raises ``ValueError`` for a list of other episodes of ``data`` than its split has here.
    """
    if config.list:
        return _listed(data, Path(config.list))
    part = "val" if config.split == "val" else "test"
    source = data.source
    states = {
        int(episode): source.read("state", source.offsets[episode] + np.arange(source.lengths[episode]))
        for episode in data.parts[part]  # type: ignore[index]
    }
    assert data.env is not None
    environment = load_class(data.env)
    return draw_tasks(
        states,
        environment.success,
        count=config.count,
        offset=config.offset,
        seed=config.seed,
        environment=environment.__name__,
        data_fingerprint=source.fingerprint,
        split=part,
        sample=environment_factory(data)().sample_state if config.goals == "drawn" else None,
    )


def _listed(data: EpisodeDataModule, file: Path) -> Manifest:
    manifest = Manifest.load(file)
    if manifest.data_fingerprint == data.source.fingerprint:
        there = data.parts.get(manifest.split, ())  # type: ignore[call-overload]
        others = sorted({task.episode for task in manifest.tasks} - {int(episode) for episode in there})
        if others:
            raise ValueError(
                f"{file}: found tasks from the episodes {others}, expected those of the data's {manifest.split} split "
                "alone: the list is of another split of the same data; set data.seed, val_share and test_share to its"
            )
    return manifest


def draw_windows(
    data: EpisodeDataModule, window: WindowSpec, *, count: int, seed: int = 0, part: Part = "val"
) -> dict[str, NDArray[Any]]:
    """Draw ``count`` windows, or all if there are fewer, from the episodes of ``part``: arrays (P, T, ...) by name.

    Not from the test episodes where settings are chosen by what is measured.
    """
    source, statistics = data.source, data.statistics
    width = source.columns["action"].shape[0]
    dataset = WindowDataset(source, data.parts[part], window, last_action=statistics.action_mean[:width])
    count = min(count, len(dataset))
    chosen = np.random.default_rng(seed).choice(len(dataset), size=count, replace=False)
    drawn = [dataset[int(index)] for index in chosen]
    return {name: np.stack([row[name].numpy() for row in drawn]) for name in drawn[0]}
