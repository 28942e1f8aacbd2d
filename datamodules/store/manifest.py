"""The manifest of a store: what is in it, and the size and hash of every file."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepakit.datamodules.store.schema import Column

FORMAT, VERSION = "jepakit-episodes", 2
MANIFEST, SHARD = "manifest.json", "shard.json"
_REMEDY = "delete {} and generate or convert it again"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What one shard holds; ``files`` by name."""

    name: str
    episodes: int
    rows: int
    files: Mapping[str, FileRecord]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> ShardRecord:
        """From JSON; raises ``KeyError`` or ``TypeError``."""
        files = {name: FileRecord(**record) for name, record in value["files"].items()}
        return cls(name=value["name"], episodes=value["episodes"], rows=value["rows"], files=files)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``complete`` is false from the moment a writer opens the store until it closes it."""

    settings: Mapping[str, Any]
    columns: Mapping[str, Column]
    shards: Sequence[ShardRecord] = ()
    fingerprint: str | None = None
    complete: bool = True

    def save(self, root: Path) -> None:
        """Replace the manifest under ``root`` in one step."""
        shards = [asdict(shard) for shard in self.shards]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "complete": self.complete,
            "fingerprint": self.fingerprint or fingerprint_of({"settings": dict(self.settings), "shards": shards}),
            "settings": dict(self.settings),
            "columns": {name: asdict(column) for name, column in self.columns.items()},
            "shards": shards,
        }
        write_json(root / MANIFEST, content)

    @classmethod
    def load(cls, root: Path) -> Manifest:
        """Read it; raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
        file = root / MANIFEST
        if not file.is_file():
            raise FileNotFoundError(f"{root}: no {MANIFEST} there, so this is no complete data set; generate it again")
        try:
            content = json.loads(file.read_text())
            found = (content["format"], content["version"])
            if found == (FORMAT, VERSION):
                return cls(
                    settings=content["settings"],
                    columns={name: _parse_column(value) for name, value in content["columns"].items()},
                    shards=[ShardRecord.parse(value) for value in content["shards"]],
                    fingerprint=content["fingerprint"],
                    complete=content["complete"],
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: unreadable ({error!r}); {_REMEDY.format(root)}") from error
        raise ValueError(f"{file}: found format {found}, expected {(FORMAT, VERSION)}; {_REMEDY.format(root)}")


def _parse_column(value: Mapping[str, Any]) -> Column:
    return Column(dtype=value["dtype"], shape=tuple(value["shape"]), codec=value["codec"])


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flush(file: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write ``file`` so that it appears, or is replaced, whole."""
    temporary = file.with_name(f".{file.name}-{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(json.dumps(content, indent=1))
        flush(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
