"""Goal pairs: a frame, a later one of the same episode as its goal, and the actions that follow the first.

Shape letters: B batch, G steps of actions, C raw action width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.shared import Field
from jepakit.datamodules.store import Array, EpisodeSource
from jepakit.datamodules.windows import WindowDataset, WindowSpec


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Pairs to learn from: goals ``min_offset`` to ``max_offset`` environment steps ahead, and ``steps`` actions."""

    max_offset: int = 50
    steps: int = 25
    min_offset: int = 1

    def __post_init__(self) -> None:
        for name in ("min_offset", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"goals.{name}: found {getattr(self, name)}, expected at least 1 environment step")
        if self.max_offset < self.min_offset:
            raise ValueError(
                f"goals.max_offset: found {self.max_offset}, expected at least min_offset = {self.min_offset}"
            )


class GoalDataset(WindowDataset):
    """All pairs of frames as far apart as ``goals`` says, in the given episodes, starts ``stride`` apart.

    A batch has the columns of both frames (B, 2, ...), their distance ``offset`` (B,) in environment steps, and the raw
    ``action`` (B, G, C) from the first frame on. Actions from the goal on say nothing about the way there; behind the
    episode's end they are ``last_action``. Raises ``ValueError`` if no episode of the source is ``max_offset`` long, or
    none of the given ones ``min_offset``.
    """

    def __init__(
        self,
        source: EpisodeSource,
        episodes: NDArray[np.int64],
        goals: Goals,
        *,
        last_action: NDArray[np.float32],
        stride: int = 1,
        columns: Sequence[str] = ("pixels",),
    ) -> None:
        # A pair of neighbours is the shortest example.
        pair = WindowSpec(history=1, predictions=1, frame_skip=1)
        super().__init__(source, episodes, pair, last_action=last_action, stride=stride, columns=columns)
        self._goals = goals
        farthest = int(source.lengths.max()) - 1
        if goals.max_offset > farthest:
            raise ValueError(
                f"{source.path}: goals.max_offset: found {goals.max_offset}, expected at most {farthest}, the steps of "
                "the longest episode; what is trained would claim to know goals that it never saw"
            )
        lengths, kind = np.unique(source.lengths[episodes], return_inverse=True)
        tables = [_pairs(int(length), goals, stride) for length in lengths]
        sizes = np.array([len(table) for table in tables])
        self._pairs = np.concatenate(tables)
        self._first = (np.cumsum(sizes) - sizes)[kind]  # an episode's first row of that
        self.counts = sizes[kind]
        if not self.counts.sum():
            raise ValueError(
                f"{source.path}: goals.min_offset: found {goals.min_offset}, expected at most {lengths.max() - 1}, the "
                f"steps of the longest of {len(episodes)} episodes; lower it"
            )
        self._ends = np.cumsum(self.counts)

    @property
    def fields(self) -> dict[str, Field]:
        """The tensors of a batch."""
        action = self.source.columns["action"].shape[0]
        pair = super().fields  # of windows of two frames
        return {**pair, "action": Field("float32", (self._goals.steps, action)), "offset": Field("int64", ())}

    def _fill(self, arrays: Mapping[str, Array], indices: NDArray[np.int64]) -> None:
        places = np.searchsorted(self._ends, indices, side="right")
        episode = self._episodes[places]
        within = indices - self._ends[places] + self.counts[places]
        start, offset = self._pairs[self._first[places] + within].T
        first = self.source.offsets[episode] + start
        rows = np.stack([first, first + offset], axis=1).ravel()
        for name in (*self._columns, *self._vectors):
            self.source.read(name, rows, arrays[name].reshape(len(rows), *self.source.columns[name].shape))
        arrays["action"][...] = self._following(episode, start)
        arrays["offset"][...], arrays["episode"][...], arrays["start"][...] = offset, episode, start

    def _following(self, episode: NDArray[np.int64], start: NDArray[np.int64]) -> Array:
        """The actions (B, G, C) from ``start`` on; the last row of an episode has none."""
        steps = start[:, None] + np.arange(self._goals.steps)
        over = steps >= self.source.lengths[episode][:, None] - 1
        rows = self.source.offsets[episode][:, None] + np.where(over, 0, steps)
        actions = self.source.read("action", rows.ravel()).reshape(*rows.shape, -1)
        actions[over] = self._last_action
        if not np.isfinite(actions).all():
            pair = int(np.flatnonzero(~np.isfinite(actions).all((1, 2)))[0])
            raise ValueError(
                f"{self.source.path}: column 'action' of episode {episode[pair]}: found NaN or infinity after step "
                f"{start[pair]}, expected NaN in the last step only"
            )
        return actions


def _pairs(length: int, goals: Goals, stride: int) -> NDArray[np.int64]:
    """(start, offset) of every pair in an episode of so many rows."""
    starts, offsets = np.meshgrid(
        np.arange(0, length - 1, stride), np.arange(goals.min_offset, goals.max_offset + 1), indexing="ij"
    )
    inside = starts + offsets < length
    return np.stack([starts[inside], offsets[inside]], axis=1).astype(np.int64)
