"""Windows: the short clips of frames and action blocks that every model trains on.

Shape letters: B batch, T frames, F frame skip, C raw action width, A = F·C action-block width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from jepakit.datamodules.store import EpisodeSource

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
    ``action_low`` and ``action_high`` ``(C,)`` bound one raw action.
    """

    action_mean: NDArray[np.float32]
    action_std: NDArray[np.float32]
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]


class WindowDataset(Dataset[Batch]):
    """Windows of the given episodes, one every ``stride`` steps, as uint8 frames and raw actions.

    The NaN action that ends an episode becomes ``last_action`` ``(C,)``; the column's mean, which is 0 once
    standardised, says nothing. A batch is gathered
    in one read per column: see ``__getitems__``. Raises ``ValueError`` when no episode is long enough.
    """

    def __init__(
        self,
        source: EpisodeSource,
        episodes: NDArray[np.int64],
        spec: WindowSpec,
        *,
        last_action: NDArray[np.float32],
        stride: int = 1,
    ) -> None:
        self.source = source
        self.spec = spec
        self._last_action = last_action
        counts = np.maximum((source.lengths[episodes] - spec.steps) // stride + 1, 0)
        if counts.sum() == 0:
            longest = int(source.lengths[episodes].max()) if len(episodes) else 0
            raise ValueError(
                f"{source.path}: the longest of {len(episodes)} episodes has {longest} steps, a window needs "
                f"{spec.steps} (frames × frame_skip); lower history, predictions or frame_skip"
            )
        self._episode = np.repeat(episodes, counts)
        self._start = stride * (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))
        self._columns = [name for name in ("proprio", "state") if name in source.columns]

    def __len__(self) -> int:
        return len(self._episode)

    def __getitem__(self, index: int) -> Batch:
        """One window, without the batch dimension."""
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> Batch:
        """The windows at ``indices`` as one batch (see the module's legend)."""
        chosen = np.asarray(indices)
        spec, source = self.spec, self.source
        episode, start = self._episode[chosen], self._start[chosen]
        first = source.offsets[episode] + start
        frame_rows = (first[:, None] + spec.frame_skip * np.arange(spec.frames)).ravel()
        action_rows = (first[:, None] + np.arange(spec.steps)).ravel()
        shape = (len(chosen), spec.frames)
        actions = source.read("action", action_rows)
        ends = start + spec.steps == source.lengths[episode]
        actions.reshape(len(chosen), spec.steps, -1)[ends, -1] = self._last_action
        batch = {
            "pixels": source.read("pixels", frame_rows).reshape(*shape, *source.columns["pixels"].shape),
            "action": actions.reshape(*shape, -1),
            "episode": episode,
            "start": start,
        }
        for name in self._columns:
            batch[name] = source.read(name, frame_rows).reshape(*shape, -1)
        if not np.isfinite(batch["action"]).all():
            window = int(np.flatnonzero(~np.isfinite(batch["action"]).all((1, 2)))[0])
            raise ValueError(
                f"{source.path}: column 'action' of episode {episode[window]}: found NaN or infinity between steps "
                f"{start[window]} and {start[window] + spec.steps - 1}, expected NaN in the last step only"
            )
        return {name: torch.from_numpy(value) for name, value in batch.items()}


def identity(batch: Any) -> Any:  # noqa: ANN401 (whatever the dataset made)
    """Collate function for datasets whose ``__getitems__`` already makes a batch."""
    return batch


class EpochShuffle(Sampler[int]):
    """A permutation that depends on (seed, epoch) only; Lightning calls ``set_epoch``."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(self._size)
        return iter(order.tolist())
