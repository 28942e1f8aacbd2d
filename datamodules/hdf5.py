"""Reader of the public HDF5 layout: flat columns with ``ep_len`` and ``ep_offset``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store import Array, Column

_INDEX = {"ep_len", "ep_offset", "episode_idx", "ep_idx", "step_idx"}


class HDF5Source:
    """Episodes in one HDF5 file as the LeWM authors publish them.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the column that is missing or does not fit.
    """

    def __init__(self, path: str | Path) -> None:
        import h5py

        self.path = Path(path)
        self._file: Any = None
        try:
            with h5py.File(self.path) as file:
                names = set(file)
                missing = sorted({"pixels", "action", "ep_len", "ep_offset"} - names)
                if missing:
                    raise ValueError(f"{path}: columns {missing} not found; it has {', '.join(sorted(names))}")
                self.columns = {
                    name: Column(dtype=str(file[name].dtype), shape=tuple(file[name].shape[1:]))
                    for name in sorted(names - _INDEX)
                }
                self.lengths: NDArray[np.int64] = file["ep_len"][:].astype(np.int64)
                self.offsets: NDArray[np.int64] = file["ep_offset"][:].astype(np.int64)
                rows = len(file["action"])
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such file; give the path of an HDF5 data set") from None
        except OSError as error:
            raise ValueError(f"{path}: not a readable HDF5 file ({error}); it may be truncated") from error
        ends = self.offsets + self.lengths
        if len(self.lengths) != len(self.offsets) or (len(ends) and int(ends.max()) > rows):
            raise ValueError(f"{path}: ep_len and ep_offset describe {ends.max()} rows, column 'action' has {rows}")
        pixels = self.columns["pixels"]
        if pixels.dtype != "uint8" or len(pixels.shape) != 3 or pixels.shape[2] != 3:
            raise ValueError(f"{path}: column 'pixels': found {pixels.dtype} {pixels.shape}, expected uint8 (h, w, 3)")
        size = self.path.stat().st_size
        self.fingerprint = hashlib.sha256(f"{self.path.name} {size}".encode() + self.lengths.tobytes()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: HDF5 handles do not survive a fork or a pickle."""
        return {**self.__dict__, "_file": None}

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``; raises ``KeyError`` for an unknown column."""
        import h5py

        if self._file is None:
            self._file = h5py.File(self.path)
        if column not in self.columns:
            raise KeyError(f"{self.path}: column {column!r} not found; it has {', '.join(self.columns)}")
        unique, inverse = np.unique(rows, return_inverse=True)  # HDF5 wants increasing indices
        values = self._file[column][unique][inverse]
        if out is None:
            return np.asarray(values)
        out[...] = values
        return out
