"""The public HDF5 layout: flat columns, one row per step, with ``ep_len`` and ``ep_offset``."""

from __future__ import annotations

import importlib
import math
from functools import partial
from typing import Any

import numpy as np

from jepakit.datamodules.readers.base import Reader, Rows, column_dtype, episode_runs
from jepakit.datamodules.readers.location import Location, PerProcess
from jepakit.datamodules.store import Array, Column
from jepakit.untrusted import check_contained

_LENGTH, _OFFSET = "ep_len", "ep_offset"
_EPISODE = ("episode_idx", "ep_idx")  # both names occur in published files
_BLOSC, _BLOSC2 = 32001, 32026  # registered numbers of the HDF5 filters
_SLICED_ROW_BYTES = 4096
_SLICED_RUN = 4  # rows on average


class HDF5Reader(Reader):
    """Episodes in one HDF5 file as the LeWM authors publish them.

    Without ``ep_len`` the episodes are the runs of ``episode_idx`` (or ``ep_idx``). Raises ``FileNotFoundError``, or
    ``ValueError`` naming the column that is missing or does not fit.
    """

    kind = "hdf5"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        if not location.exists():
            raise FileNotFoundError(f"{location}: no such file; give the path of an HDF5 data set")
        self._file = PerProcess(partial(_open, location))
        self.fork_safe = not location.remote
        file = self._file.get()
        columns = self._columns(file)
        lengths, offsets = self._episodes(file)
        self._describe(columns, lengths, offsets, stamp=str(location.size()))
        ends = self.offsets + self.lengths
        for name in self.columns:
            if int(ends.max()) > len(file[name]):
                raise ValueError(
                    f"{self.path}: {_LENGTH} and {_OFFSET} describe {ends.max()} rows, column {name!r} has "
                    f"{len(file[name])}; the file is incomplete"
                )

    def _episodes(self, file: Any) -> tuple[Rows, Rows]:  # noqa: ANN401 (h5py has no types)
        if _LENGTH in file:
            lengths = file[_LENGTH][:].astype(np.int64)
            offsets = file[_OFFSET][:].astype(np.int64) if _OFFSET in file else np.cumsum(lengths) - lengths
            if len(lengths) != len(offsets) or (lengths < 0).any():
                raise ValueError(f"{self.path}: {len(lengths)} lengths in {_LENGTH}, {len(offsets)} in {_OFFSET}")
            return lengths, offsets
        for name in _EPISODE:
            if name in file:
                return episode_runs(self.path, file[name][:])
        raise ValueError(
            f"{self.path}: columns {_LENGTH!r} and {_EPISODE[0]!r} not found; one of them must say where episodes end; "
            f"it has {', '.join(sorted(file))}"
        )

    def _columns(self, file: Any) -> dict[str, Column]:  # noqa: ANN401 (h5py has no types)
        import h5py

        columns = {}
        for name in sorted(file):
            check_contained(file, name, where=self.location)
        for name in sorted(set(file) - {_LENGTH, _OFFSET, *_EPISODE}):
            data = file[name]
            if isinstance(data, h5py.Dataset) and data.ndim:
                _check_filters(self.location, name, data)
                columns[name] = Column(dtype=column_dtype(self.path, name, data.dtype), shape=tuple(data.shape[1:]))
        return columns

    def _read(self, column: str, rows: Rows, out: Array) -> None:
        data = self._file.get()[column]
        order = np.argsort(rows, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(rows[order]) > 1) + 1)
        row_bytes = math.prod(data.shape[1:]) * data.dtype.itemsize
        try:
            # HDF5 searches for every row of a list, which takes many times as long as slices of frames; only small rows
            # far apart are read quicker so.
            if row_bytes < _SLICED_ROW_BYTES and len(rows) < _SLICED_RUN * len(runs):
                unique, inverse = np.unique(rows, return_inverse=True)  # it wants increasing indices
                out[...] = data[unique][inverse]
            else:
                for places in runs:
                    first, last = rows[places[0]], rows[places[-1]]
                    out[places] = data[first : last + 1][rows[places] - first]
        except OSError as error:
            raise self._broken_row(data, column, np.unique(rows), error) from error

    def _broken_row(self, data: Any, column: str, rows: Rows, error: OSError) -> ValueError:  # noqa: ANN401
        for row in rows:
            try:
                data[row]
            except OSError:
                return self.bad(int(row), f"row {row} of column {column!r} cannot be read ({error}); restore the file")
        return ValueError(f"{self.path}: column {column!r}: {error}")


def _open(location: Location) -> Any:  # noqa: ANN401 (h5py has no types)
    import h5py

    try:
        return h5py.File(location.open() if location.remote else location.address, "r")
    except OSError as error:
        raise ValueError(f"{location}: not a readable HDF5 file ({error}); it may be truncated") from error


def _check_filters(location: Location, name: str, data: Any) -> None:  # noqa: ANN401 (h5py has no types)
    """Load the Blosc filters if the column needs them; h5py alone cannot decompress it."""
    import h5py

    plist = data.id.get_create_plist()
    numbers = {plist.get_filter(index)[0] for index in range(plist.get_nfilters())}
    if numbers & {_BLOSC, _BLOSC2}:
        try:
            importlib.import_module("hdf5plugin")  # registers its filters when imported
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{location}: column {name!r} is compressed with Blosc; pip install 'jepakit[data]' brings the filter"
            ) from error
    for number in numbers:
        if not h5py.h5z.filter_avail(number):
            raise ValueError(f"{location}: column {name!r} needs HDF5 filter {number}, which is not installed")
