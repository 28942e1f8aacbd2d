"""Frozen task lists: which (start, goal) pairs a success rate is about."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.json_files import check_json, read_json
from jepakit.planning.evaluation.files import write_json

SCHEMA = 1
_TASK = {
    "id": int,
    "episode": int,
    "start_step": int,
    "goal_step": (int, None),
    "state": [float],
    "goal_state": [float],
}
_FIELDS = {
    **{"environment": str, "data_fingerprint": str, "split": str, "offset": int, "seed": int, "excluded": int},
    "tasks": [dict],
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Reach the state that ``episode`` had at step ``goal_step``, from the one it had at ``start_step``.

    Without a ``goal_step`` the goal is the environment's own draw.
    """

    id: int
    episode: int
    start_step: int
    goal_step: int | None
    state: tuple[float, ...]
    goal_state: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A frozen list of tasks and where it came from.

    Args:
        environment: name of the environment the states belong to.
        data_fingerprint: fingerprint of the data the episodes are from.
        split: which split, by episode; ``"test"`` for anything that is called a success rate.
        offset: environment steps from start to goal; for goals that the environment drew, of the budget only.
        seed: seed of the draw.
        excluded: draws that were dropped because the start already met the goal.
        tasks: the tasks; their ids number them from 0.

    """

    environment: str
    data_fingerprint: str
    split: str
    offset: int
    seed: int
    excluded: int
    tasks: tuple[Task, ...]

    @property
    def drawn(self) -> bool:
        """Whether the environment drew the goals, which no episode ends in."""
        return any(task.goal_step is None for task in self.tasks)

    @property
    def sha256(self) -> str:
        """Hash of everything above; saved with it, so that a changed file is noticed."""
        return _digest(dataclasses.asdict(self))

    def save(self, path: Path) -> None:
        """Write the manifest as JSON, atomically."""
        write_json(path, {"schema": SCHEMA, "sha256": self.sha256, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest; raises ``ValueError`` when it is not one, or not the one that was saved."""
        content = read_json(path, remedy="draw the tasks again or restore the file")
        schema, recorded = content.pop("schema", None), content.pop("sha256", None)
        if schema != SCHEMA:
            raise ValueError(f"{path}: schema: found {schema!r}, expected {SCHEMA}: not a task list of this version")
        found = _digest(content)
        if recorded != found:
            raise ValueError(
                f"{path}: sha256: found {found}, expected {recorded}: the task list was changed after it was frozen, "
                "so results on it compare with nothing; restore the file or draw a new one"
            )
        _check_keys(path, "manifest", content, cls)
        check_json(content, _FIELDS, where=str(path))
        for index, task in enumerate(content["tasks"]):
            _check_keys(path, f"tasks[{index}]", task, Task)
            check_json(task, _TASK, where=f"{path}: tasks[{index}]")
        tasks = tuple(
            Task(**{**task, "state": tuple(task["state"]), "goal_state": tuple(task["goal_state"])})
            for task in content["tasks"]
        )
        return cls(**{**content, "tasks": tasks})


def draw_tasks(
    states: Mapping[int, NDArray[Any]],
    success: Callable[[NDArray[Any], NDArray[Any]], bool],
    *,
    count: int,
    offset: int,
    seed: int,
    environment: str,
    data_fingerprint: str,
    split: str = "test",
    sample: Callable[[np.random.Generator], NDArray[Any]] | None = None,
) -> Manifest:
    """Draw ``count`` tasks, uniformly over all (episode, start) pairs and without repetition.

    ``states`` maps the split's episode ids to their states ``(steps, D)``; ``success(state, goal)`` is the
    environment's criterion. With ``sample`` the goals are its states, in place of those that the episodes had
    ``offset`` steps later: goals that no demonstration ends in. Starts that meet the criterion are excluded and
    counted. Raises ``ValueError`` when there are not enough pairs.
    """
    episodes = sorted(states)
    starts = np.array([max(0, len(states[episode]) - offset) for episode in episodes], dtype=np.int64)
    ends = np.cumsum(starts)
    rng = np.random.default_rng(seed)
    tasks: list[Task] = []
    excluded = 0
    for pair in rng.permutation(int(starts.sum())):
        if len(tasks) == count:
            break
        row = int(np.searchsorted(ends, pair, side="right"))
        start = int(pair - (ends[row] - starts[row]))
        episode = states[episodes[row]]
        state = np.asarray(episode[start], dtype=np.float64)
        goal = np.asarray(episode[start + offset] if sample is None else sample(rng), dtype=np.float64)
        if success(state, goal):
            excluded += 1
            continue
        tasks.append(
            Task(
                id=len(tasks),
                episode=int(episodes[row]),
                start_step=start,
                goal_step=start + offset if sample is None else None,
                state=tuple(state.tolist()),
                goal_state=tuple(goal.tolist()),
            )
        )
    if len(tasks) < count:
        raise ValueError(
            f"tasks: found {len(tasks)} unsolved (start, goal) pairs {offset} steps apart in {len(episodes)} "
            f"{split} episodes, expected {count}; ask for fewer tasks, a smaller offset or more episodes"
        )
    return Manifest(
        environment=environment,
        data_fingerprint=data_fingerprint,
        split=split,
        offset=offset,
        seed=seed,
        excluded=excluded,
        tasks=tuple(tasks),
    )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_keys(path: Path, where: str, content: Mapping[str, Any], kind: type[Manifest] | type[Task]) -> None:
    expected = {field.name for field in dataclasses.fields(kind)}
    if set(content) != expected:
        raise ValueError(f"{path}: {where}: found fields {sorted(content)}, expected {sorted(expected)}")
