"""Writing one shard: episodes are streamed into a hidden directory, which is renamed when it is complete."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jepakit.datamodules.store.codec import encode
from jepakit.datamodules.store.manifest import SHARD, FileRecord, ShardRecord, flush, sha256_of
from jepakit.datamodules.store.schema import Array, Column


class ShardWriter:
    """Streams episodes into the files of one shard; memory holds one episode at a time.

    Nothing is visible under ``directory`` before ``finish``.
    """

    def __init__(self, directory: Path, columns: Mapping[str, Column]) -> None:
        self.directory = directory
        self.lengths: list[int] = []
        self._temporary = directory.with_name(f".{directory.name}-{uuid.uuid4().hex[:12]}")
        self._temporary.mkdir(parents=True)
        self._files = {name: _ColumnFile(self._temporary, name, column) for name, column in columns.items()}

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return sum(file.size for file in self._files.values())

    def append(self, episode: Mapping[str, Array], number: int) -> None:
        """Add one episode (column → ``(steps, …)``), wholly or not at all; ``number`` is what errors call it.

        Raises ``ValueError`` for what does not fit the columns and ``OSError`` when it cannot be written.
        """
        self._check(episode, number)
        sizes = [file.size for file in self._files.values()]
        for name, file in self._files.items():
            try:
                file.write(episode[name])
            except BaseException as error:
                for other, size in zip(self._files.values(), sizes, strict=True):
                    other.cut(size, sum(self.lengths))
                if not isinstance(error, OSError):
                    raise
                raise OSError(
                    error.errno,
                    f"{self.directory}: column {name!r} of episode {number} cannot be written ({error.strerror}); "
                    "the episodes before it are kept; make room and continue",
                ) from error
        self.lengths.append(len(next(iter(episode.values()))))

    def _check(self, episode: Mapping[str, Array], number: int) -> None:
        where = f"{self.directory}: episode {number}"
        if set(episode) != set(self._files):
            raise ValueError(f"{where}: found columns {sorted(episode)}, expected {sorted(self._files)}")
        for name, file in self._files.items():
            rows, column = episode[name], file.column
            if rows.dtype != column.dtype or rows.shape[1:] != column.shape:
                raise ValueError(
                    f"{where}: column {name!r}: found {rows.dtype} rows of {rows.shape[1:]}, "
                    f"expected {column.dtype} rows of {column.shape}"
                )
        lengths = {name: len(rows) for name, rows in episode.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"{where}: found {lengths} rows, expected the same number, at least 1, in every column")

    def finish(self, *, durable: bool) -> ShardRecord:
        """Put the shard under its name and return what it holds; ``durable`` waits until it is on the disk."""
        try:
            rows = sum(self.lengths)
            for file in self._files.values():
                file.finish(rows)
            np.save(self._temporary / "lengths.npy", np.array(self.lengths, dtype=np.int64))
            record = ShardRecord(
                name=self.directory.name,
                episodes=len(self.lengths),
                rows=rows,
                files={file.name: _record(file) for file in sorted(self._temporary.iterdir())},
            )
            (self._temporary / SHARD).write_text(json.dumps(asdict(record), indent=1))
            if durable:
                for path in self._temporary.iterdir():
                    flush(path)
            self._temporary.rename(self.directory)
        except BaseException:
            self.abort()
            raise
        return record

    def abort(self) -> None:
        """Forget everything."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)


class _ColumnFile:
    """One column on its way to the disk: unbuffered, so that an error arises in the write that caused it."""

    def __init__(self, directory: Path, name: str, column: Column) -> None:
        self.column = column
        self._encoded = column.codec != "raw"
        self._path = directory / f"{name}.{'bin' if self._encoded else 'npy'}"
        self._file = self._path.open("wb", buffering=0)
        self._ends = [0]
        self.size = 0
        if not self._encoded:
            self._put(self._header(0))

    def write(self, rows: Array) -> None:
        if not self._encoded:
            self._put(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
            return
        for row in rows:
            self._put(encode(row, self.column.codec))
            self._ends.append(self.size)

    def cut(self, size: int, rows: int) -> None:
        """Back to ``rows`` rows in ``size`` bytes."""
        self._file.truncate(size)
        self._file.seek(size)
        self.size = size
        del self._ends[rows + 1 :]

    def finish(self, rows: int) -> None:
        if self._encoded:
            np.save(self._path.with_suffix(".index.npy"), np.array(self._ends, dtype=np.int64))
        else:
            self._file.seek(0)
            self._file.write(self._header(rows))
        self.close()

    def close(self) -> None:
        self._file.close()

    def _header(self, rows: int) -> bytes:
        """The ``.npy`` header; NumPy pads it so that its length does not depend on the number of rows."""
        buffer = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(self.column.dtype))
        shape = (rows, *self.column.shape)
        np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while len(view):
            written = self._file.write(view)
            assert written is not None  # only for non-blocking files
            self.size += written
            view = view[written:]


def _record(file: Path) -> FileRecord:
    return FileRecord(bytes=file.stat().st_size, sha256=sha256_of(file))
