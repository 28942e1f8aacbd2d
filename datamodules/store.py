"""The episode store: complete episodes as memory-mapped columns, in shards that appear whole or not at all.

Layout of a store directory::

    manifest.json              format, version, settings, fingerprint, columns, shards (written last)
    shard-00000/<column>.npy   one row per step, (rows, …)
    shard-00000/lengths.npy    steps per episode, (episodes,) int64
    shard-00000/pixels.bin     encoded frames, with pixels.npy holding their byte offsets (rows + 1,) int64

Row ``t`` holds the observation before action ``t``; the action leads to row ``t + 1``, and the last action of an
episode is NaN, as in the public data sets.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = "jepakit-episodes", 1
MANIFEST = "manifest.json"
Codec = Literal["raw", "png", "jpeg"]
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """Type of one column: NumPy dtype name, shape of a row, and how frames are stored."""

    dtype: str
    shape: tuple[int, ...]
    codec: Codec = "raw"


class EpisodeSource(Protocol):
    """What windows are cut from: columns of rows, grouped into episodes."""

    path: Path
    fingerprint: str
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns by name."""
        ...

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``, into ``out`` when given."""
        ...


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def write_shard(directory: Path, episodes: list[dict[str, Array]], columns: Mapping[str, Column]) -> None:
    """Write episodes (column → ``(steps, …)``) as one shard, which appears under its name only when complete."""
    temporary = directory.with_name(f".{directory.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, column in columns.items():
            rows = np.concatenate([episode[name] for episode in episodes])
            if rows.dtype != column.dtype or rows.shape[1:] != column.shape:
                raise ValueError(
                    f"{directory}: column {name!r}: found {rows.dtype} rows of {rows.shape[1:]}, "
                    f"expected {column.dtype} rows of {column.shape}"
                )
            if column.codec != "raw":
                rows = _write_encoded(temporary / f"{name}.bin", rows, column.codec)
            np.save(temporary / f"{name}.npy", rows)
        lengths = [len(next(iter(episode.values()))) for episode in episodes]
        np.save(temporary / "lengths.npy", np.array(lengths, dtype=np.int64))
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_manifest(root: Path, settings: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
    """Declare the shards under ``root`` complete; called last."""
    shards = [
        {"name": shard.name, "bytes": {file.name: file.stat().st_size for file in sorted(shard.iterdir())}}
        for shard in sorted(root.glob("shard-*"))
    ]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint_of(settings),
        "settings": dict(settings),
        "columns": {
            name: {"dtype": column.dtype, "shape": list(column.shape), "codec": column.codec}
            for name, column in columns.items()
        },
        "shards": shards,
    }
    temporary = root / f".{MANIFEST}-{os.getpid()}"
    temporary.write_text(json.dumps(manifest, indent=1))
    temporary.replace(root / MANIFEST)


class EpisodeStore:
    """Reads a store directory; only what is asked for is touched.

    Raises ``FileNotFoundError`` without a manifest and ``ValueError`` naming the file that is missing, truncated or
    of another version. Instances can be pickled: files are opened again in the process that reads.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _read_manifest(self.path)
        self.fingerprint: str = manifest["fingerprint"]
        self.settings: dict[str, Any] = manifest["settings"]
        self.columns: dict[str, Column] = {
            name: Column(dtype=c["dtype"], shape=tuple(c["shape"]), codec=c["codec"])
            for name, c in manifest["columns"].items()
        }
        self._shards = [self.path / shard["name"] for shard in manifest["shards"]]
        for shard, entry in zip(self._shards, manifest["shards"], strict=True):
            _check_sizes(shard, entry["bytes"])
        per_shard = [np.load(shard / "lengths.npy") for shard in self._shards]
        self.lengths: NDArray[np.int64] = np.concatenate(per_shard)
        self.offsets: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        self._shard_ends: NDArray[np.int64] = np.cumsum([lengths.sum() for lengths in per_shard])
        self._open: dict[tuple[str, int], Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open memory maps behind."""
        return {**self.__dict__, "_open": {}}

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``, into ``out`` when given; raises ``KeyError`` for its name."""
        if column not in self.columns:
            raise KeyError(f"{self.path}: column {column!r} not found; it has {', '.join(self.columns)}")
        info = self.columns[column]
        if out is None:
            out = np.empty((len(rows), *info.shape), dtype=info.dtype)
        shards = np.searchsorted(self._shard_ends, rows, side="right")
        for shard in np.unique(shards):
            chosen = np.flatnonzero(shards == shard)
            local = rows[chosen] - (self._shard_ends[shard - 1] if shard else 0)
            data = self._map(column, int(shard))
            if info.codec != "raw":
                self._decode(column, int(shard), data, local, out, chosen)
            else:
                out[chosen] = data[local]
        return out

    def _map(self, column: str, shard: int) -> Array:
        """The memory map of one column of one shard."""
        key = (column, shard)
        if key not in self._open:
            self._open[key] = _as_plain_array(np.load(self._shards[shard] / f"{column}.npy", mmap_mode="r"))
        return self._open[key]

    def _decode(self, column: str, shard: int, ends: Array, rows: Array, out: Array, places: NDArray[np.int64]) -> None:
        from PIL import Image

        key = (f"{column}.bin", shard)
        file = self._shards[shard] / f"{column}.bin"
        if key not in self._open:
            self._open[key] = _as_plain_array(np.memmap(file, dtype=np.uint8, mode="r"))
        for row, place in zip(rows, places, strict=True):
            data = self._open[key][ends[row] : ends[row + 1]]
            try:
                out[place] = np.asarray(Image.open(io.BytesIO(data.tobytes())))
            except (OSError, ValueError) as error:
                raise ValueError(f"{file}: frame {row} cannot be decoded ({error}); generate the data again") from error


def _as_plain_array(array: Array) -> Array:
    """View a memmap as ndarray: the subclass makes every slice several times slower."""
    return array.view(np.ndarray)


def _write_encoded(path: Path, frames: Array, codec: Codec) -> NDArray[np.int64]:
    """Append encoded frames to ``path``; returns their byte offsets ``(rows + 1,)``."""
    from PIL import Image

    options: dict[str, Any] = {"compress_level": 1} if codec == "png" else {"quality": 95, "subsampling": 0}
    offsets = [0]
    with path.open("wb") as file:
        for frame in frames:
            Image.fromarray(frame).save(file, format=codec, **options)
            offsets.append(file.tell())
    return np.array(offsets, dtype=np.int64)


def _read_manifest(root: Path) -> dict[str, Any]:
    file = root / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{root}: no {MANIFEST} there, so this is no complete data set; generate it again")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        found = (manifest["format"], manifest["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: unreadable ({error!r}); generate the data again") from error
    if found != (FORMAT, VERSION):
        raise ValueError(f"{file}: found format {found}, expected {(FORMAT, VERSION)}; generate the data again")
    return manifest


def _check_sizes(shard: Path, expected: Mapping[str, int]) -> None:
    for name, size in expected.items():
        file = shard / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "missing" if found is None else f"{found} bytes"
            raise ValueError(f"{file}: {state}, expected {size} bytes; delete {shard.parent} and generate it again")
