"""Reading a store."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store.codec import decode
from jepakit.datamodules.store.manifest import Manifest, ShardRecord, sha256_of
from jepakit.datamodules.store.schema import Array, Column

# Larger rows are read into the caller's buffer: mapped frames would count as memory of the process until the kernel
# takes them back, and one read per frame beats a page fault per 4 KiB when the file is not cached.
_MAPPED_ROW_BYTES = 4096
_AGAIN = "generate or convert it again"
Frame = tuple[int, int, int, int]  # row in the shard, place in the batch, first and last byte


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that is not what was written, and the episodes in its shard (first, last)."""

    file: Path
    episodes: tuple[int, int]
    problem: str

    def __str__(self) -> str:
        first, last = self.episodes
        return f"{self.file}: {self.problem} (episodes {first} to {last})"


class EpisodeStore:
    """Reads a store directory; only what is asked for is touched.

    Opening compares sizes; ``verify`` compares hashes. ``complete`` is false while the store is being written and after
    a writer was killed: then it holds the episodes committed until now. Raises ``FileNotFoundError`` without a manifest
    and ``ValueError`` naming the file that is missing, truncated or of another version. Instances can be forked and
    pickled: reads have no position, and a new process opens the files again.
    """

    fork_safe = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = Manifest.load(self.path)
        assert manifest.fingerprint is not None
        self.fingerprint: str = manifest.fingerprint
        self.settings: dict[str, Any] = dict(manifest.settings)
        self.columns: dict[str, Column] = dict(manifest.columns)
        self.complete = manifest.complete
        self._shards = list(manifest.shards)
        for shard in self._shards:
            self._check_sizes(shard)
        lengths = [self._lengths(shard) for shard in self._shards]
        self.lengths: NDArray[np.int64] = np.concatenate([np.zeros(0, np.int64), *lengths])
        self.offsets: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        self._begins: NDArray[np.int64] = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self._reset()

    @property
    def fps(self) -> float | None:
        """Rows per second where the source said it."""
        rate: float | None = self.settings.get("fps")
        return rate

    def _reset(self) -> None:
        self._maps: dict[Path, Array] = {}
        self._headers: dict[Path, int] = {}
        self._files = _Files()
        self._threads = _Threads()

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is open behind."""
        is_open = {"_maps", "_headers", "_files", "_threads"}
        return {name: value for name, value in self.__dict__.items() if name not in is_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``, into the contiguous ``out`` when given.

        Raises ``KeyError`` for an unknown column, ``IndexError`` for rows outside the store, and ``ValueError`` naming
        file and episode for a frame that cannot be read.
        """
        if column not in self.columns:
            raise KeyError(f"{self.path}: column {column!r} not found; it has {', '.join(self.columns)}")
        info = self.columns[column]
        shape = (len(rows), *info.shape)
        if out is None:
            out = np.empty(shape, dtype=info.dtype)
        elif out.shape != shape or out.dtype != info.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out: found {out.dtype} {out.shape}, expected contiguous {info.dtype} {shape}")
        if len(rows) and (rows.min() < 0 or rows.max() >= self._begins[-1]):
            raise IndexError(f"{self.path}: rows {rows.min()} to {rows.max()}, expected 0 to {self._begins[-1] - 1}")
        for shard, places in self._by_shard(rows):
            local = rows[places] - self._begins[shard]
            directory = self.path / self._shards[shard].name
            if info.codec != "raw":
                self._decode(directory, column, shard, local, out, places)
            elif info.row_bytes > _MAPPED_ROW_BYTES:
                self._copy(directory / f"{column}.npy", info, shard, local, out, places)
            else:
                out[places] = self._map(directory / f"{column}.npy", info, self._shards[shard].rows)[local]
        return out

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
        """Read every file and compare its hash; ``progress(done, total)`` counts bytes."""
        total = sum(record.bytes for shard in self._shards for record in shard.files.values())
        damages, done, first = [], 0, 0
        for shard in self._shards:
            for name, record in shard.files.items():
                file = self.path / shard.name / name
                if sha256_of(file) != record.sha256:
                    episodes = (first, first + shard.episodes - 1)
                    damages.append(Damage(file=file, episodes=episodes, problem="its SHA-256 is not the recorded one"))
                done += record.bytes
                if progress is not None:
                    progress(done, total)
            first += shard.episodes
        return damages

    def _check_sizes(self, shard: ShardRecord) -> None:
        for name, record in shard.files.items():
            file = self.path / shard.name / name
            found = file.stat().st_size if file.is_file() else None
            if found != record.bytes:
                state = "missing" if found is None else f"{found} bytes"
                raise ValueError(
                    f"{file}: {state}, expected {record.bytes} bytes; restore it, or delete {self.path} and {_AGAIN}"
                )

    def _lengths(self, shard: ShardRecord) -> NDArray[np.int64]:
        """Steps of a shard's episodes, whose hash is compared: a wrong one would shift every window after it."""
        file = self.path / shard.name / "lengths.npy"
        lengths = _load(io.BytesIO(file.read_bytes()), file)
        fits = lengths.dtype == np.int64 and lengths.shape == (shard.episodes,) and (lengths >= 0).all()
        if not fits or lengths.sum() != shard.rows or sha256_of(file) != shard.files[file.name].sha256:
            raise ValueError(f"{file}: not what was written; restore it, or delete {self.path} and {_AGAIN}")
        return lengths

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (shard, positions in ``rows``), the positions in the order of the file."""
        order = np.argsort(rows, kind="stable")
        shards = np.searchsorted(self._begins, rows[order], side="right") - 1
        for places in np.split(order, np.flatnonzero(np.diff(shards)) + 1):
            if len(places):
                yield int(np.searchsorted(self._begins, rows[places[0]], side="right")) - 1, places

    def _map(self, file: Path, info: Column, rows: int) -> Array:
        """The memory map of a file, as plain ndarray: the subclass makes every slice several times slower."""
        if file not in self._maps:
            self._maps[file] = _load_map(file, info, rows).view(np.ndarray)
        return self._maps[file]

    def _copy(
        self, file: Path, info: Column, shard: int, rows: NDArray[np.int64], out: Array, places: NDArray[np.int64]
    ) -> None:
        if file not in self._headers:
            self._headers[file] = _load_map(file, info, self._shards[shard].rows).offset
        begin, size, descriptor = self._headers[file], info.row_bytes, self._files.get(file)
        target = out.reshape(-1).view(np.uint8).data
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            if os.preadv(descriptor, [target[place * size : (place + 1) * size]], begin + row * size) != size:
                raise self._bad_frame(file, shard, row, "the file ends before it")

    def _decode(
        self, directory: Path, column: str, shard: int, rows: NDArray[np.int64], out: Array, places: NDArray[np.int64]
    ) -> None:
        codec, file = self.columns[column].codec, directory / f"{column}.bin"
        ends = self._shards[shard].rows + 1
        index = self._map(directory / f"{column}.index.npy", Column(dtype="int64", shape=()), ends)
        descriptor, size = self._files.get(file), self._shards[shard].files[file.name].bytes

        def decode_frames(frames: list[Frame]) -> None:
            for row, place, begin, end in frames:
                try:
                    if not 0 <= begin <= end <= size:
                        raise ValueError(f"bytes {begin} to {end} of {size} in its index")
                    decode(os.pread(descriptor, end - begin, begin), codec, out[place])
                except ValueError as error:
                    raise self._bad_frame(file, shard, row, str(error)) from error

        frames = list(zip(rows.tolist(), places.tolist(), index[rows].tolist(), index[rows + 1].tolist(), strict=True))
        self._threads.each(decode_frames, frames)

    def _bad_frame(self, file: Path, shard: int, row: int, problem: str) -> ValueError:
        row += int(self._begins[shard])
        episode = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return ValueError(
            f"{file}: frame {row - self.offsets[episode]} of episode {episode} cannot be read ({problem}); restore the "
            "file, or generate or convert the data again"
        )


def _load_map(file: Path, info: Column, rows: int) -> np.memmap[Any, Any]:
    """Map a ``.npy`` file; raises ``ValueError`` unless it holds that many rows of the column."""
    found = _load(file, file, mmap_mode="r")
    if found.dtype != info.dtype or found.shape != (rows, *info.shape) or not found.flags.c_contiguous:
        raise ValueError(
            f"{file}: found {found.dtype} of shape {found.shape}, expected {info.dtype} of shape {(rows, *info.shape)}"
        )
    assert isinstance(found, np.memmap)
    return found


def _load(source: Path | io.BytesIO, file: Path, mmap_mode: Literal["r"] | None = None) -> Array:
    """Read a ``.npy`` file of numbers; raises ``ValueError`` naming the ``file`` for anything else, pickles too."""
    try:
        found = np.load(source, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, OverflowError, TokenError, BadZipFile) as error:
        raise ValueError(f"{file}: not a .npy file of numbers ({error}); restore it, or {_AGAIN}") from error
    if not isinstance(found, np.ndarray) or found.ndim == 0:
        raise ValueError(f"{file}: found {type(found).__name__}, expected a .npy file of rows; restore it, or {_AGAIN}")
    return found


class _Files:
    """Open file descriptors: a bounded number, because a process may hold about a thousand."""

    def __init__(self, limit: int = 128) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, int] = OrderedDict()

    def get(self, file: Path) -> int:
        if file not in self._open:
            if len(self._open) == self._limit:
                os.close(self._open.popitem(last=False)[1])
            self._open[file] = os.open(file, os.O_RDONLY)
        self._open.move_to_end(file)
        return self._open[file]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class _Threads:
    """Shares frames among the cores (decoders release the GIL); loader processes share the cores among themselves."""

    _LEAST = 16  # frames per thread, below which handing them over costs more than it gains

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def each(self, work: Callable[[list[Frame]], None], frames: list[Frame]) -> None:
        count = 1 if multiprocessing.parent_process() else len(os.sched_getaffinity(0))
        count = min(count, len(frames) // self._LEAST)
        if count < 2:
            work(frames)
            return
        if self._pool is None or self._process != os.getpid():  # threads do not survive a fork
            self._pool, self._process = ThreadPoolExecutor(thread_name_prefix="decode"), os.getpid()
        for done in [self._pool.submit(work, frames[part::count]) for part in range(count)]:
            done.result()
