"""Windows: the short clips of frames and action blocks that every model trains on.

Shape letters: B batch, T frames, F frame skip, C raw action width, A = F·C action-block width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from jepakit.datamodules.shared import BatchSlots, Field, FilledSlot
from jepakit.datamodules.store import Array, EpisodeSource

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """``history + predictions`` frames, ``frame_skip`` steps apart, each with the block of actions that leaves it."""

    history: int = 3
    predictions: int = 1
    frame_skip: int = 5

    def __post_init__(self) -> None:
        for field in ("history", "predictions", "frame_skip"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} of a window: found {getattr(self, field)}, expected at least 1")

    @property
    def frames(self) -> int:
        """Frames per window, T."""
        return self.history + self.predictions

    @property
    def steps(self) -> int:
        """Rows of an episode that a window spans, T·F."""
        return self.frames * self.frame_skip


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a model must know of the actions in the training episodes.

    ``action_mean`` and ``action_std`` ``(A,)`` standardise a block (population std per raw column, repeated F times);
    ``action_low`` and ``action_high`` ``(C,)`` bound one raw action. ``proprio_mean`` and ``proprio_std`` ``(P,)``
    standardise proprioception where the data have it.
    """

    action_mean: NDArray[np.float32]
    action_std: NDArray[np.float32]
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    proprio_mean: NDArray[np.float32] | None = None
    proprio_std: NDArray[np.float32] | None = None


class WindowDataset(Dataset[Batch]):
    """Windows of the given episodes, one every ``stride`` steps, as uint8 frames and raw actions.

    ``columns`` are served as they are stored, one row per frame, beside the vectors ``proprio`` and ``state`` where the
    data have them. The NaN action that ends an episode becomes ``last_action`` ``(C,)``; the column's mean, which is 0
    once standardised, says nothing. A batch is gathered in one read per column: see ``__getitems__``. ``counts`` are
    the windows of each episode.

    Raises ``ValueError`` when no episode is long enough.
    """

    def __init__(
        self,
        source: EpisodeSource,
        episodes: NDArray[np.int64],
        spec: WindowSpec,
        *,
        last_action: NDArray[np.float32],
        stride: int = 1,
        columns: Sequence[str] = ("pixels",),
    ) -> None:
        self.source = source
        self.spec = spec
        self.counts: NDArray[np.int64] = np.maximum((source.lengths[episodes] - spec.steps) // stride + 1, 0)
        if self.counts.sum() == 0:
            longest = int(source.lengths[episodes].max()) if len(episodes) else 0
            raise ValueError(
                f"{source.path}: the longest of {len(episodes)} episodes has {longest} steps, a window needs "
                f"{spec.steps} (frames × frame_skip); lower history, predictions or frame_skip"
            )
        self._last_action = last_action
        self._stride = stride
        self._episodes = episodes
        self._ends = np.cumsum(self.counts)
        self._columns = list(columns)
        self._vectors = [name for name in ("proprio", "state") if name in source.columns]
        self.slots: BatchSlots | None = None  # where loader processes leave their batches

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fields(self) -> dict[str, Field]:
        """The tensors of a batch."""
        columns, frames = self.source.columns, self.spec.frames
        action = columns["action"].shape[0] * self.spec.frame_skip
        return {
            **{name: Field(columns[name].dtype, (frames, *columns[name].shape)) for name in self._columns},
            **{name: Field(columns[name].dtype, (frames, math.prod(columns[name].shape))) for name in self._vectors},
            "action": Field("float32", (frames, action)),
            "episode": Field("int64", ()),
            "start": Field("int64", ()),
        }

    def __getitem__(self, index: int) -> Batch:
        """One window, without the batch dimension."""
        arrays = self._new_arrays(1)
        self._fill(arrays, np.array([index]))
        return {name: torch.from_numpy(value)[0] for name, value in arrays.items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch | FilledSlot:
        """The windows at ``indices`` as one batch (see the module's legend); in a loader process, where to find it."""
        worker = get_worker_info()
        slot = self.slots.claim(worker.id) if self.slots is not None and worker is not None else None
        if self.slots is None or slot is None:
            arrays = self._new_arrays(len(indices))
            self._fill(arrays, np.asarray(indices))
            return {name: torch.from_numpy(value) for name, value in arrays.items()}
        try:
            self._fill(self.slots.arrays(slot, len(indices)), np.asarray(indices))
        except BaseException:
            self.slots.release(slot)
            raise
        return FilledSlot(slot, len(indices))

    def _new_arrays(self, windows: int) -> dict[str, Array]:
        return {name: np.empty((windows, *field.shape), field.dtype) for name, field in self.fields.items()}

    def _fill(self, arrays: Mapping[str, Array], indices: NDArray[np.int64]) -> None:
        """Read the windows at ``indices`` into the arrays of a batch."""
        source = self.source
        places = np.searchsorted(self._ends, indices, side="right")
        episode = self._episodes[places]
        start = self._stride * (indices - self._ends[places] + self.counts[places])
        first = source.offsets[episode] + start
        rows = (first[:, None] + self.spec.frame_skip * np.arange(self.spec.frames)).ravel()
        for name in (*self._columns, *self._vectors):
            source.read(name, rows, arrays[name].reshape(len(rows), *source.columns[name].shape))
        arrays["action"][...] = self._actions(episode, start).reshape(arrays["action"].shape)
        arrays["episode"][...] = episode
        arrays["start"][...] = start

    def _actions(self, episode: NDArray[np.int64], start: NDArray[np.int64]) -> Array:
        """The actions of every window, (B, T·F, C)."""
        source, steps = self.source, self.spec.steps
        rows = (source.offsets[episode] + start)[:, None] + np.arange(steps)
        actions = source.read("action", rows.ravel()).reshape(len(episode), steps, -1)
        actions[start + steps == source.lengths[episode], -1] = self._last_action
        if not np.isfinite(actions).all():
            window = int(np.flatnonzero(~np.isfinite(actions).all((1, 2)))[0])
            raise ValueError(
                f"{source.path}: column 'action' of episode {episode[window]}: found NaN or infinity between steps "
                f"{start[window]} and {start[window] + steps - 1}, expected NaN in the last step only"
            )
        return actions


def identity(batch: Any) -> Any:  # noqa: ANN401 (whatever the dataset made)
    """Collate function for datasets whose ``__getitems__`` already makes a batch."""
    return batch
