"""One more column from a second data set of the same episodes: features or slots computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store import Array, Column, EpisodeSource


class JoinedSource:
    """The episodes of ``base`` with the column ``name`` of ``extra``, row by row.

    Raises ``ValueError`` when the two do not hold the same episodes, when ``extra`` says that it was computed from
    other data, and when it has no such column.
    """

    def __init__(self, base: EpisodeSource, extra: EpisodeSource, name: str) -> None:
        if name not in extra.columns:
            raise ValueError(f"{extra.path}: column {name!r} not found; it has {', '.join(extra.columns)}")
        if not np.array_equal(base.lengths, extra.lengths):
            raise ValueError(
                f"{extra.path}: found {len(extra.lengths)} episodes of {extra.lengths.sum()} steps, expected the "
                f"{len(base.lengths)} episodes of {base.lengths.sum()} steps of {base.path}, each as long as there; "
                f"compute {name!r} again for this data set"
            )
        source = _source_of(extra)
        if source not in (None, base.fingerprint):
            raise ValueError(
                f"{extra.path}: found {name!r} that were computed from the data set with the fingerprint {source}, "
                f"expected {base.fingerprint}, that of {base.path}; compute {name!r} again for this data set"
            )
        self._base, self._extra, self._name = base, extra, name
        self.fingerprint = base.fingerprint
        self.lengths, self.offsets = base.lengths, base.offsets
        self.fork_safe = getattr(base, "fork_safe", False) and getattr(extra, "fork_safe", False)

    @property
    def path(self) -> Path | str:
        """See ``EpisodeSource.path``."""
        return self._base.path

    @property
    def columns(self) -> Mapping[str, Column]:
        """See ``EpisodeSource.columns``."""
        return {**self._base.columns, self._name: self._extra.columns[self._name]}

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """See ``EpisodeSource.read``."""
        if column != self._name:
            return self._base.read(column, rows, out)
        return self._extra.read(column, self._rows_of_extra(rows), out)

    def _rows_of_extra(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the same steps are in ``extra``: files with gaps or another order number their rows otherwise."""
        if np.array_equal(self.offsets, self._extra.offsets):
            return rows
        order = np.argsort(self.offsets, kind="stable")
        episodes = order[np.searchsorted(self.offsets[order], rows, side="right") - 1]
        moved: NDArray[np.int64] = rows - self.offsets[episodes] + self._extra.offsets[episodes]
        return moved


def _source_of(extra: EpisodeSource) -> object:
    """Fingerprint of the data that ``extra`` was computed from, where it says so.

    ``FeatureCache`` writes it as ``data``, ``store_features`` as ``source_fingerprint``. A converted data set has the
    latter, too, but for its own source; it has frames beside its features.
    """
    settings = getattr(extra, "settings", {})
    return None if "pixels" in extra.columns else settings.get("data", settings.get("source_fingerprint"))
