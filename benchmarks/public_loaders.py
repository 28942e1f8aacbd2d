"""The same windows, read as public loaders read them: h5py row by row, and Lance with a JPEG decode per frame.

Every dataset makes single windows, which the ``DataLoader`` stacks; file handles are opened in the process that reads.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import lance
import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jepakit.datamodules.store import EpisodeStore
from jepakit.datamodules.windows import WindowDataset

COLUMNS = ("pixels", "action", "proprio", "state")


def write_hdf5(path: Path, store: EpisodeStore) -> None:
    """One chunk per row, without compression: the layout that is quickest to read at random."""
    with h5py.File(path, "w") as file:
        file["ep_len"] = store.lengths
        for name in COLUMNS:
            column = store.columns[name]
            rows = int(store.lengths.sum())
            chunks = (1, *column.shape) if name == "pixels" else None
            data = file.create_dataset(name, (rows, *column.shape), column.dtype, chunks=chunks)
            for begin, length in zip(store.offsets, store.lengths, strict=True):
                data[begin : begin + length] = store.read(name, begin + np.arange(length))


def write_lance(path: Path, store: EpisodeStore) -> int:
    """One row per step, frames as JPEG of quality 95 like the published tables; returns the bytes of all frames."""
    rows = np.arange(store.lengths.sum())
    frames = [_jpeg(frame[0]) for frame in (store.read("pixels", rows[i : i + 1]) for i in rows)]
    columns: dict[str, Any] = {"pixels": pa.array(frames, pa.binary())}
    for name in COLUMNS[1:]:
        values = store.read(name, rows)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    lance.write_dataset(pa.table(columns), path)
    return sum(map(len, frames))


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class _Windows(Dataset[dict[str, Tensor]]):
    """Window ``i`` is that of ``windows``; a subclass reads its rows."""

    def __init__(self, path: Path, windows: WindowDataset) -> None:
        self.path = path
        self.frames, self.skip, self.steps = windows.spec.frames, windows.spec.frame_skip, windows.spec.steps
        episodes = np.repeat(windows._episodes, windows.counts)
        starts = np.concatenate([np.arange(count) for count in windows.counts])
        self.first = windows.source.offsets[episodes] + starts
        self.file: Any = None

    def __len__(self) -> int:
        return len(self.first)

    def rows(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the frames and of the actions."""
        first = self.first[index]
        return first + self.skip * np.arange(self.frames), first + np.arange(self.steps)


class HDF5Windows(_Windows):
    """A read per frame, which is the fastest: HDF5 is slow at strided slices of chunks."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.file is None:
            file = h5py.File(self.path)
            self.file = {name: file[name] for name in COLUMNS}
        first = self.first[index]
        steps = slice(first, first + self.steps)
        window = {name: self.file[name][steps][:: self.skip] for name in ("proprio", "state")}
        window["pixels"] = np.stack([self.file["pixels"][row] for row in range(first, first + self.steps, self.skip)])
        window["action"] = self.file["action"][steps].reshape(self.frames, -1)
        return {name: torch.from_numpy(value) for name, value in window.items()}


class LanceWindows(_Windows):
    """A ``take`` per window."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._take([index])[0]

    def _take(self, indices: list[int]) -> list[dict[str, Tensor]]:
        if self.file is None:
            self.file = lance.dataset(str(self.path))
        rows = [self.rows(index) for index in indices]
        observed = self.file.take(np.concatenate([r[0] for r in rows]), columns=["pixels", "proprio", "state"])
        acted = self.file.take(np.concatenate([r[1] for r in rows]), columns=["action"])
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(data.as_py()))) for data in observed["pixels"]])
        values = {"pixels": pixels, **{name: _array(observed[name]) for name in ("proprio", "state")}}
        values["action"] = _array(acted["action"])
        shaped = {
            name: torch.from_numpy(
                value.reshape(len(indices), self.frames, *(value.shape[1:] if value.ndim == 4 else (-1,)))
            )
            for name, value in values.items()
        }
        return [{name: value[i] for name, value in shaped.items()} for i in range(len(indices))]


class LanceBatches(LanceWindows):
    """A ``take`` per batch: fewer calls than one per window."""

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        return self._take(indices)


def _array(column: Any) -> np.ndarray:  # noqa: ANN401 (pyarrow)
    values = column.combine_chunks()
    return np.array(values.flatten()).reshape(len(values), -1)
