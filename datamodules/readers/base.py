"""What the readers of foreign data sets share: rows grouped into episodes, checked columns, errors that name both."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.location import Location
from jepakit.datamodules.store import Array, Column
from jepakit.untrusted import naming

Rows = NDArray[np.int64]
_SAMPLED = 4  # rows of every column in a fingerprint: remote ones cost a request each


class BadEpisode(ValueError):
    """One episode cannot be used; ``lightning data convert --skip-bad`` leaves it out."""

    def __init__(self, path: Path | str, episode: int, problem: str) -> None:
        super().__init__(f"{path}: episode {episode}: {problem}")
        self.episode = episode
        self.problem = problem

    def __reduce__(self) -> tuple[type[Exception], tuple[str]]:
        return ValueError, (str(self),)  # loader processes send it to the parent


class Reader(ABC):
    """An ``EpisodeSource`` over somebody else's format.

    A subclass calls ``_describe`` once it knows its columns and episodes, and reads rows in ``_read``. Float columns
    arrive as float32, frames as uint8 ``(h, w, 3)``, whatever the file holds.
    """

    kind: ClassVar[str]
    #: Rows per second where the format says it.
    fps: float | None = None
    #: Whether loader processes may be forked: not where a library keeps threads of its own.
    fork_safe = False

    def __init__(self, location: Location) -> None:
        self.location = location
        self.path = location.path

    def _describe(self, columns: Mapping[str, Column], lengths: Rows, offsets: Rows, *, stamp: str = "") -> None:
        """Set columns and episodes; raises ``ValueError`` unless there are frames and actions of the right kind."""
        missing = sorted({"pixels", "action"} - set(columns))
        if missing:
            raise ValueError(f"{self.path}: columns {missing} not found; it has {', '.join(sorted(columns))}")
        if not len(lengths):
            raise ValueError(f"{self.path}: no episodes; expected at least one")
        for name, column in columns.items():
            _check_kind(self.path, name, column)
        self.columns = dict(columns)
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self._stamp = stamp

    @cached_property
    def fingerprint(self) -> str:
        """Hash of columns, lengths and a few evenly spread rows, wherever the data lie; read when first asked for.

        A row that cannot be read counts as such.
        """
        digest = hashlib.sha256(f"{self._stamp} {sorted(self.columns.items())}".encode() + self.lengths.tobytes())
        for name in sorted(self.columns):
            for row in self._spread(_SAMPLED):
                try:
                    digest.update(self._content(name, row))
                except (BadEpisode, FileNotFoundError):
                    digest.update(b"unreadable")
        return digest.hexdigest()

    def _spread(self, count: int) -> Rows:
        """Up to ``count`` rows that are evenly spread over all episodes."""
        ends = np.cumsum(self.lengths)
        total = int(ends[-1])
        steps = np.unique((2 * np.arange(count) + 1) * total // (2 * count)) if total else np.zeros(0, np.int64)
        episodes = np.searchsorted(ends, steps, side="right")
        rows: Rows = self.offsets[episodes] + steps - (ends - self.lengths)[episodes]
        return rows

    def _content(self, column: str, row: int) -> bytes:
        """What tells a row from that of another data set: its numbers; decoded videos differ between machines."""
        return self.read(column, np.array([row])).tobytes()

    def read(self, column: str, rows: Rows, out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``; ``KeyError`` for its name, ``BadEpisode`` for unreadable rows."""
        if column not in self.columns:
            raise KeyError(f"{self.path}: column {column!r} not found; it has {', '.join(self.columns)}")
        info = self.columns[column]
        rows = np.asarray(rows, dtype=np.int64)
        with naming(self.path):
            if out is None:
                out = np.empty((len(rows), *info.shape), dtype=info.dtype)
            if len(rows):
                self._read(column, rows, out)
        return out

    @abstractmethod
    def _read(self, column: str, rows: Rows, out: Array) -> None:
        """Fill ``out`` with the rows of a known column, in their order."""

    def episode_of(self, row: int) -> int:
        """The episode that holds a row."""
        inside = (self.offsets <= row) & (row < self.offsets + self.lengths)
        return int(np.flatnonzero(inside)[0]) if inside.any() else -1

    def bad(self, row: int, problem: str) -> BadEpisode:
        """The error for a row that cannot be read."""
        return BadEpisode(self.path, self.episode_of(row), problem)

    def by_episode(self, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
        """Group rows: yields (episode, steps inside it, positions in ``rows``); the offsets must ascend."""
        episodes = np.searchsorted(self.offsets, rows, side="right") - 1
        for episode in np.unique(episodes):
            places = np.flatnonzero(episodes == episode)
            yield int(episode), rows[places] - self.offsets[episode], places


def is_camera(column: str) -> bool:
    """Whether a column holds frames, by its name."""
    return column == "pixels" or column.startswith("pixels_")


def column_dtype(path: Path | str, name: str, dtype: np.dtype[np.generic]) -> str:
    """The dtype a column is served in: any float becomes float32, integers and booleans stay."""
    if dtype.kind == "f":
        return "float32"
    if dtype.kind in "iub":
        return str(dtype)
    raise ValueError(f"{path}: column {name!r}: found {dtype}, expected numbers or frames")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """A JPEG or PNG file as ``(h, w, 3)``; raises ``ValueError`` saying what is wrong with it."""
    from PIL import Image

    try:  # other formats are not expected, and some of Pillow's plugins run programs
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image of {len(data)} bytes cannot be decoded ({type(error).__name__})") from error


def episode_runs(path: Path | str, index: NDArray[np.integer]) -> tuple[Rows, Rows]:
    """Lengths and offsets of the episodes in an index column, one number per row; every run is one episode."""
    starts = np.flatnonzero(np.diff(index, prepend=index[:1] - 1)) if len(index) else np.zeros(0, np.int64)
    names = index[starts]
    if len(np.unique(names)) != len(names):
        twice = int(names[np.flatnonzero(np.bincount(np.unique(names, return_inverse=True)[1]) > 1)[0]])
        raise ValueError(f"{path}: rows of episode {twice} are not contiguous; sort the rows by episode and step")
    return np.diff(np.append(starts, len(index))).astype(np.int64), starts.astype(np.int64)


def _check_kind(path: Path | str, name: str, column: Column) -> None:
    found = f"{path}: column {name!r}: found {column.dtype} rows of shape {column.shape}"
    if is_camera(name) and not (column.dtype == "uint8" and len(column.shape) == 3 and column.shape[2] == 3):
        raise ValueError(f"{found}, expected uint8 (h, w, 3)")
    if name == "action" and not (column.dtype == "float32" and len(column.shape) == 1):
        raise ValueError(f"{found}, expected floats of shape (C,)")
