"""Writing stores: episode by episode into one directory, or shard by shard from many processes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from jepakit.datamodules.store.manifest import MANIFEST, SHARD, Manifest, ShardRecord, fingerprint_of
from jepakit.datamodules.store.schema import Array, Column
from jepakit.datamodules.store.shard import ShardWriter


def write_shard(directory: Path, episodes: Iterable[Mapping[str, Array]], columns: Mapping[str, Column]) -> ShardRecord:
    """Write episodes (column → ``(steps, …)``) as one shard, which appears under its name only when complete."""
    shard = ShardWriter(directory, columns)
    try:
        for number, episode in enumerate(episodes):
            shard.append(episode, number)
    except BaseException:
        shard.abort()
        raise
    return shard.finish(durable=False)  # what can be generated again need not wait for the disk


def write_manifest(root: Path, settings: Mapping[str, Any], columns: Mapping[str, Column]) -> None:
    """Declare the shards under ``root`` (see ``write_shard``) one complete store; called last.

    The fingerprint is that of ``settings``: they must determine the data.
    """
    shards = [ShardRecord.load(shard / SHARD) for shard in sorted(root.glob("shard-*"))]
    Manifest(settings=settings, columns=columns, shards=shards, fingerprint=fingerprint_of(settings)).save(root)


def refuse_complete(root: Path) -> None:
    """Raise ``FileExistsError`` if there is a complete store already, to which nothing is to be added."""
    if (root / MANIFEST).exists() and Manifest.load(root).complete:
        raise FileExistsError(f"{root}: a complete store is there already; choose another path or remove it")


class EpisodeWriter:
    """Appends episodes to a store: a new one, or one with the same columns and settings.

    A context manager. Episodes are committed together once they fill ``shard_bytes``, at ``commit`` and at the end; a
    committed episode survives whatever happens. Until the writer is closed the store says that it is not complete; an
    exception inside the ``with`` block keeps the whole episodes and leaves it so. The fingerprint is ``fingerprint``
    or, by default, that of the content. ``skipped`` is saved with every commit and found again: the episodes of a
    source that the caller left out, by their number there, and why.

    Raises ``ValueError`` when the directory holds something else, is of other columns or settings, or is being written
    by another process.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Mapping[str, Column],
        *,
        settings: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        shard_bytes: int = 512 << 20,
    ) -> None:
        self.path = Path(path)
        self._columns = dict(columns)
        self._settings = json.loads(json.dumps(dict(settings or {})))  # as they will be read back
        self._fingerprint = fingerprint
        self._shard_bytes = shard_bytes
        self._open: ShardWriter | None = None
        self._found()  # before anything is created there
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _lock(self.path)
        try:
            found = self._found()  # again: the writer before may have committed meanwhile
            self._shards = list(found.shards) if found else []
            self.skipped = dict(found.skipped) if found else {}
            self._sweep()
            self._save(complete=False)
        except BaseException:
            self._release()
            raise

    @property
    def committed(self) -> int:
        """Episodes that are safe."""
        return sum(shard.episodes for shard in self._shards)

    def append(self, episode: Mapping[str, Array]) -> int:
        """Add one episode (column → ``(steps, …)``) and return its number.

        Raises ``ValueError`` for what does not fit the columns and ``OSError`` when it cannot be written, naming the
        episode; the ones before it are not touched.
        """
        if self._lock is None:
            raise ValueError(f"{self.path}: the writer is closed")
        if self._open is None:
            self._open = ShardWriter(self.path / f"shard-{len(self._shards):05d}", self._columns)
        number = self.committed + len(self._open.lengths)
        self._open.append(episode, number)
        if self._open.bytes >= self._shard_bytes:
            self.commit()
        return number

    def commit(self) -> None:
        """Make the episodes appended so far part of the store."""
        shard, self._open = self._open, None
        if shard is None:
            return
        if not shard.lengths:
            shard.abort()
            return
        self._shards.append(shard.finish(durable=True))
        self._save(complete=False)

    def close(self) -> None:
        """Commit and declare the store complete."""
        if self._lock is not None:
            try:
                self.commit()
                self._save(complete=True)
            finally:
                self._release()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        with suppress(OSError):  # the first error says what is wrong
            self.commit()
        self._release()

    def _found(self) -> Manifest | None:
        if not (self.path / MANIFEST).exists():
            names = [file.name for file in self.path.iterdir()] if self.path.is_dir() else []
            foreign = [name for name in names if not name.startswith((".lock", f".{MANIFEST}-"))]
            if foreign or self.path.is_file():
                raise ValueError(f"{self.path}: exists and is no store; choose another path or remove it")
            return None
        manifest = Manifest.load(self.path)
        for name, found, expected in (
            ("columns", manifest.columns, self._columns),
            ("settings", manifest.settings, self._settings),
        ):
            if found != expected:
                raise ValueError(f"{self.path}: the store has {name} {found}, found {expected}; write to another path")
        return manifest

    def _sweep(self) -> None:
        """Remove what a killed writer left behind."""
        known = {shard.name for shard in self._shards}
        for leftover in (*self.path.glob(".shard-*"), *self.path.glob("shard-*"), *self.path.glob(f".{MANIFEST}-*")):
            if leftover.name not in known:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _save(self, *, complete: bool) -> None:
        Manifest(
            settings=self._settings,
            columns=self._columns,
            shards=self._shards,
            fingerprint=self._fingerprint,
            complete=complete,
            skipped=self.skipped,
        ).save(self.path)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(root: Path) -> int:
    """Hold the store for this process; the lock goes with it."""
    descriptor = os.open(root / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ValueError(f"{root}: another process is writing to this store") from error
    return descriptor
