"""Several data sets as one, each with its weight."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.collect import SAME_EPISODES
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.sampling import EpochOrder
from jepakit.datamodules.splits import Part, fit_statistics
from jepakit.datamodules.store import Array, Column, EpisodeSource, fingerprint_of
from jepakit.datamodules.windows import Statistics, WindowDataset


@dataclass(frozen=True, kw_only=True)
class MixturePart:
    """One data set of a mixture; ``weight`` over the sum of weights is its share of the training windows."""

    data: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < np.inf:
            raise ValueError(f"weight of {self.data}: found {self.weight}, expected a positive number")


class ConcatenatedSource:
    """Episodes of several sources, one after the other, with the columns that all have.

    Raises ``ValueError`` naming the source whose column is missing (``required``) or of another type.
    """

    def __init__(self, sources: Sequence[EpisodeSource], *, required: Sequence[str] = ("pixels", "action")) -> None:
        self.sources = list(sources)
        self.fork_safe = all(getattr(source, "fork_safe", False) for source in sources)
        self.path = Path(" + ".join(str(source.path) for source in sources))
        self.fingerprint = fingerprint_of({"sources": [source.fingerprint for source in sources]})
        self.columns: dict[str, Column] = {}
        for name, column in sources[0].columns.items():
            if all(name in source.columns for source in sources):
                _check_same(name, column, sources)
                self.columns[name] = Column(dtype=column.dtype, shape=column.shape)
        for name in required:
            for source in sources:
                if name not in source.columns:
                    raise ValueError(f"{source.path}: column {name!r} not found; it has {', '.join(source.columns)}")
        rows = [int((source.offsets + source.lengths).max(initial=0)) for source in sources]
        self._begins: NDArray[np.int64] = np.cumsum([0, *rows])
        self.lengths: NDArray[np.int64] = np.concatenate([source.lengths for source in sources])
        self.offsets: NDArray[np.int64] = np.concatenate(
            [begin + source.offsets for begin, source in zip(self._begins, sources, strict=False)]
        )

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``; raises ``KeyError`` for an unknown column."""
        if column not in self.columns:
            raise KeyError(f"{self.path}: column {column!r} not found; it has {', '.join(self.columns)}")
        info = self.columns[column]
        if out is None:
            out = np.empty((len(rows), *info.shape), dtype=info.dtype)
        owners = np.searchsorted(self._begins, rows, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            local = rows[places] - self._begins[owner]
            if len(places) == len(rows):
                self.sources[owner].read(column, local, out)
            else:
                out[places] = self.sources[owner].read(column, local)
        return out


class Mixture(EpisodeDataModule):
    """Windows of several data sets, drawn by weight.

    Each data set is split by episode on its own. Validation and test take all their windows, whatever the weights.

    Args:
        parts: the data sets and their weights.
        image_size: side of the square frames, checked against the data.
        history: context frames of a window.
        predictions: frames after them.
        frame_skip: environment steps between two frames.
        columns: further columns that every frame brings; every data set must have them.
        batch_size: windows per batch and process.
        num_workers: loader processes; 0 loads in the training process.
        val_share: share of each data set's *episodes* used for validation.
        test_share: share of each data set's *episodes* that only evaluation sees.
        seed: of the split and of the order of windows.
    """

    def __init__(
        self,
        parts: list[MixturePart],
        *,
        image_size: int = 224,
        history: int = 3,
        predictions: int = 1,
        frame_skip: int = 5,
        columns: tuple[str, ...] = (),
        batch_size: int = 128,
        num_workers: int = 0,
        val_share: float = 0.05,
        test_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not parts:
            raise ValueError("parts of a mixture: found none, expected at least one data set")
        super().__init__(
            " + ".join(part.data for part in parts),
            image_size=image_size,
            history=history,
            predictions=predictions,
            frame_skip=frame_skip,
            columns=columns,
            batch_size=batch_size,
            num_workers=num_workers,
            val_share=val_share,
            test_share=test_share,
            seed=seed,
        )
        self.mixture = list(parts)

    def open_data(self) -> EpisodeSource:
        """All data sets as one."""
        sources = [open_source(part.data) for part in self.mixture]
        for one, other in itertools.combinations(sources, 2):
            _check_episodes_differ(one, other)
        self._counts = [len(source.lengths) for source in sources]
        return ConcatenatedSource(sources, required=("pixels", "action", *self.columns))

    def split_data(self, source: EpisodeSource) -> dict[Part, NDArray[np.int64]]:
        """Split every data set by itself."""
        begins = np.cumsum([0, *self._counts])
        splits = [
            {part: begin + episodes for part, episodes in self.split_count(count).items()}
            for begin, count in zip(begins, self._counts, strict=False)
        ]
        return {part: np.concatenate([split[part] for split in splits]) for part in splits[0]}

    def fit_statistics(self, source: EpisodeSource) -> Statistics:
        """Statistics under the weights."""
        groups = zip(self._groups(self.parts["train"]), (part.weight for part in self.mixture), strict=True)
        return fit_statistics(source, list(groups), self.window.frame_skip, None)

    def order(self, dataset: WindowDataset) -> EpochOrder:
        """Shuffled, each data set by its weight."""
        ends = np.cumsum([0, *(len(group) for group in self._groups(self.parts["train"]))])
        sizes = tuple(int(dataset.counts[begin:end].sum()) for begin, end in itertools.pairwise(ends))
        for part, size in zip(self.mixture, sizes, strict=True):
            if not size:
                raise ValueError(
                    f"{part.data}: no training episode has the {self.window.steps} steps of a window (frames × "
                    "frame_skip); lower history, predictions or frame_skip, or leave the data set out"
                )
        return EpochOrder(sizes=sizes, seed=self.seed, weights=tuple(part.weight for part in self.mixture))

    def _groups(self, episodes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Sorted episodes, by data set."""
        return np.split(episodes, np.searchsorted(episodes, np.cumsum(self._counts)[:-1]))


def _check_episodes_differ(one: EpisodeSource, other: EpisodeSource) -> None:
    """Refuse two generated data sets that begin with the same episodes: they are split apart."""
    ours, theirs = (getattr(source, "settings", {}) for source in (one, other))
    same = all(name in ours and ours[name] == theirs.get(name) for name in SAME_EPISODES)
    if same and one.fingerprint != other.fingerprint:
        raise ValueError(
            f"{other.path}: found the {', '.join(SAME_EPISODES)} of {one.path}, expected another seed: they begin with "
            "the same episodes, and test episodes of one would be training episodes of the other; take one of them"
        )


def _check_same(name: str, column: Column, sources: Sequence[EpisodeSource]) -> None:
    for source in sources:
        found = source.columns[name]
        if (found.dtype, found.shape) != (column.dtype, column.shape):
            raise ValueError(
                f"{source.path}: column {name!r}: found {found.dtype} rows of {found.shape}, expected "
                f"{column.dtype} rows of {column.shape} as in {sources[0].path}"
            )
