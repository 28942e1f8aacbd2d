"""The manifest of a store: what is in it, and the size and hash of every file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jepakit.datamodules.store.schema import NUMBERS, Column
from jepakit.json_files import check_json, read_json

FORMAT, VERSION = "jepakit-episodes", 2
MANIFEST, SHARD = "manifest.json", "shard.json"
_REMEDY = "delete {} and generate or convert it again"
_MOST_NUMBERS = 1 << 31  # in a row
_SHARD = {"name": str, "episodes": int, "rows": int, "files": {"*": {"bytes": int, "sha256": str}}}
_MANIFEST = {
    **{"format": str, "version": int, "complete": bool, "fingerprint": str, "settings": dict},
    **{"columns": {"*": {"dtype": str, "shape": [int], "codec": str}}, "shards": [dict], "skipped?": {"*": str}},
}


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
    def load(cls, file: Path) -> ShardRecord:
        """Read a shard's own record; raises ``ValueError`` naming the file."""
        value = read_json(file, remedy=_REMEDY.format(file.parent))
        return cls.parse(value, where=str(file))

    @classmethod
    def parse(cls, value: object, *, where: str) -> ShardRecord:
        """From JSON; raises ``ValueError`` for anything else and for names that lead out of the store."""
        check_json(value, _SHARD, where=where)
        assert isinstance(value, dict)
        _check_names([value["name"], *value["files"]], where=where)
        files = {
            name: FileRecord(bytes=record["bytes"], sha256=record["sha256"]) for name, record in value["files"].items()
        }
        return cls(name=value["name"], episodes=value["episodes"], rows=value["rows"], files=files)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``complete`` is false from the moment a writer opens the store until it closes it.

    ``skipped`` says why episodes of the source, by their number there, were left out.
    """

    settings: Mapping[str, Any]
    columns: Mapping[str, Column]
    shards: Sequence[ShardRecord] = ()
    fingerprint: str | None = None
    complete: bool = True
    skipped: Mapping[int, str] = field(default_factory=dict)

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
        if self.skipped:
            content["skipped"] = {str(episode): problem for episode, problem in self.skipped.items()}
        write_json(root / MANIFEST, {**content, "sha256": fingerprint_of(content)})

    @classmethod
    def load(cls, root: Path) -> Manifest:
        """Read it; raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
        file = root / MANIFEST
        if not file.is_file():
            raise FileNotFoundError(f"{root}: no {MANIFEST} there, so this is no complete data set; generate it again")
        content = read_json(file, remedy=_REMEDY.format(root))
        found = (content.get("format"), content.get("version"))
        if found != (FORMAT, VERSION):
            raise ValueError(f"{file}: found format {found}, expected {(FORMAT, VERSION)}; {_REMEDY.format(root)}")
        recorded = content.pop("sha256", None)  # manifests of early versions have none
        if recorded is not None and recorded != fingerprint_of(content):
            raise ValueError(f"{file}: sha256: does not fit the file, which was changed; {_REMEDY.format(root)}")
        if unknown := sorted(set(content) - {name.removesuffix("?") for name in _MANIFEST}):
            raise ValueError(f"{file}: found the fields {unknown}, which no store has; {_REMEDY.format(root)}")
        check_json(content, _MANIFEST, where=str(file))
        shards = [ShardRecord.parse(value, where=f"{file}: shards") for value in content["shards"]]
        columns = {name: _column(value, where=f"{file}: columns.{name}") for name, value in content["columns"].items()}
        _check_shards(columns, shards, where=f"{file}: shards")
        skipped = content.get("skipped", {})
        if odd := sorted(name for name in skipped if not name.isdecimal()):
            raise ValueError(f"{file}: skipped: found {odd[0]!r}, expected numbers of episodes; {_REMEDY.format(root)}")
        return cls(
            settings=content["settings"],
            columns=columns,
            shards=shards,
            fingerprint=content["fingerprint"],
            complete=content["complete"],
            skipped={int(episode): problem for episode, problem in skipped.items()},
        )


def files_of(columns: Mapping[str, Column]) -> set[str]:
    """Names of the files that a shard of these columns consists of, beside its own record."""
    encoded = {name for name, column in columns.items() if column.codec != "raw"}
    return {
        "lengths.npy",
        *(f"{name}.npy" for name in set(columns) - encoded),
        *(f"{name}.{ending}" for name in encoded for ending in ("bin", "index.npy")),
    }


def _column(value: Mapping[str, Any], *, where: str) -> Column:
    """From checked JSON; raises ``ValueError`` for a dtype that is none, or one of Python objects."""
    shape = tuple(value["shape"])
    fits = min(shape, default=0) >= 0 and max(*shape, math.prod(shape), 0) <= _MOST_NUMBERS
    if not NUMBERS.fullmatch(value["dtype"]) or not fits:
        raise ValueError(
            f"{where}: found {value['dtype']} of shape {shape}, expected at most {_MOST_NUMBERS} numbers or booleans"
        )
    try:
        return Column(dtype=value["dtype"], shape=shape, codec=value["codec"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_shards(columns: Mapping[str, Column], shards: Sequence[ShardRecord], *, where: str) -> None:
    """Every shard must have a name of its own and exactly the files of the columns, large enough for its rows."""
    expected = files_of(columns)
    _check_names([*columns, *expected], where=where)
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError(f"{where}: found a name twice, expected one directory for each")
    for shard in shards:
        if set(shard.files) != expected:
            raise ValueError(
                f"{where}.{shard.name}: found the files {sorted(shard.files)}, expected {sorted(expected)}"
            )
        for name, column in columns.items():
            if column.codec == "raw" and shard.files[f"{name}.npy"].bytes < shard.rows * column.row_bytes:
                raise ValueError(f"{where}.{shard.name}: {shard.rows} rows of {name!r} do not fit into its file")


def _check_names(names: Iterable[str], *, where: str) -> None:
    """Names of files within one directory, so that nothing outside the store can be meant."""
    for name in names:
        if not name or set(name) & {"/", "\\", "\0"} or name in (".", ".."):
            raise ValueError(f"{where}: found the name {name!r}, expected plain names of files within the store")


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
