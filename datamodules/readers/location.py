"""A file or folder, local or behind any fsspec URL (``hf://``, ``s3://``, ``https://`` …), read by ranges of bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

# One row of the public files (a 224-pixel frame) has 147 KiB: a remote read fetches a few such blocks, not megabytes.
_BLOCK_BYTES = 1 << 18
_BLOCKS_KEPT = 64
_PASSWORD = re.compile(r"(\w[\w+.-]*)://[^/@]*:[^/@]*@")  # github://owner:repository@branch is none
_Handle = TypeVar("_Handle")


@dataclass(frozen=True)
class Location:
    """Where something is: a path of this machine or a URL with a scheme that fsspec knows."""

    address: str

    @classmethod
    def of(cls, path: str | Path) -> Location:
        """A location from what a user writes; ``file://`` URLs become plain paths.

        Raises ``ValueError`` for a URL with a password: configurations, logs and errors would repeat it.
        """
        address = str(path).removeprefix("file://")
        if not address.startswith("github://") and (found := _PASSWORD.match(address)):
            raise ValueError(
                f"{found[1]}://…@…: found a password in the URL, expected none; give it to fsspec in its configuration "
                "or the environment (https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration)"
            )
        return cls(address)

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Location:
        """What is called ``name`` below; ``ValueError`` for a name that leads out of here."""
        if name.startswith("/") or "\0" in name or {"..", ""} & set(name.split("/")):
            raise ValueError(f"{self}: found the name {name!r} in it, expected one of a file below it")
        return Location(f"{self.address.rstrip('/')}/{name}")

    @property
    def remote(self) -> bool:
        """Whether this is a URL."""
        return "://" in self.address

    @property
    def path(self) -> Path | str:
        """What an ``EpisodeSource`` calls its path: a ``Path`` if local, the URL otherwise."""
        return self.address if self.remote else Path(self.address)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Extension of the name, with its dot and in lower case."""
        return os.path.splitext(self.name)[1].lower()

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        if not self.remote:
            return Path(self.address).exists()
        fs, path = self._filesystem()
        return bool(fs.exists(path))

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        if not self.remote:
            return Path(self.address).is_dir()
        fs, path = self._filesystem()
        return bool(fs.isdir(path))

    def size(self) -> int:
        """Bytes of the file."""
        if not self.remote:
            return Path(self.address).stat().st_size
        fs, path = self._filesystem()
        return int(fs.size(path))

    def open(self) -> BinaryIO:
        """The file, seekable, for reading; a remote one fetches and keeps blocks of 256 KiB."""
        if not self.remote:
            return Path(self.address).open("rb")
        fs, path = self._filesystem()
        cache = {"maxblocks": _BLOCKS_KEPT}
        file = fs.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options=cache)
        return cast("BinaryIO", file)

    def read_bytes(self, count: int = -1) -> bytes:
        """The file's first ``count`` bytes, or all."""
        if not self.remote:
            with self.open() as file:
                return file.read(count)
        fs, path = self._filesystem()
        return bytes(fs.cat_file(path, start=0, end=None if count < 0 else count))

    def files(self, suffix: str) -> list[Location]:
        """All files below this folder that end in ``suffix``, sorted."""
        if not self.remote:
            found = sorted(Path(self.address).rglob(f"*{suffix}"))
            return [Location(str(file)) for file in found]
        fs, path = self._filesystem()
        root, prefix = self.address.rstrip("/"), len(path.rstrip("/"))
        return [Location(root + file[prefix:]) for file in sorted(fs.find(path)) if file.endswith(suffix)]

    def _filesystem(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            fs, path = url_to_fs(self.address)
        except ImportError as error:
            raise ValueError(f"{self.address}: {error}; the scheme needs one more package") from error
        except ValueError as error:
            raise ValueError(f"{self.address}: {error}; expected a path or a URL that fsspec can open") from error
        return fs, path


class PerProcess(Generic[_Handle]):
    """A handle opened on first use, once in every process: none survives a fork, and a pickle leaves it behind."""

    def __init__(self, opener: Callable[[], _Handle]) -> None:
        self._opener = opener
        self._owner = -1
        self._handle: _Handle | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_opener": self._opener, "_owner": -1, "_handle": None}

    def get(self) -> _Handle:
        """The handle of this process."""
        if self._handle is None or self._owner != os.getpid():
            self._handle, self._owner = self._opener(), os.getpid()
        return self._handle
