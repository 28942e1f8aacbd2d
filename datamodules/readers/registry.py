"""Which reader opens what: decided by what lies at the path, never by trying one reader after the other."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepakit.datamodules.readers.base import BadEpisode
from jepakit.datamodules.readers.location import Location
from jepakit.datamodules.store import MANIFEST, EpisodeSource, EpisodeStore
from jepakit.untrusted import naming

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Kind:
    """A format: what opens it (``module:name``), how it is recognised, how errors describe it, the extra it needs."""

    target: str
    recognise: Callable[[Location], bool]
    description: str
    extra: str = "data"


def _is_hdf5(location: Location) -> bool:
    if location.suffix in {".h5", ".hdf5"}:
        return True
    return location.suffix in {"", ".hdf"} and not location.is_dir() and location.read_bytes(8) == _HDF5_SIGNATURE


def _open_store(location: Location) -> EpisodeStore:
    if location.remote:
        raise ValueError(f"{location}: stores are memory-mapped, so they must be local; download the folder first")
    path = Path(location.address)
    return EpisodeStore(path.parent if path.name == MANIFEST else path)


def check_complete(source: EpisodeSource) -> None:
    """Raise ``ValueError`` for a store that is not finished."""
    if isinstance(source, EpisodeStore) and not source.complete:
        raise ValueError(
            f"{source.path}: the store is not complete (it has {len(source.lengths)} episodes so far); run what was "
            "writing it again to finish it"
        )


def _check(source: EpisodeSource) -> None:
    """Refuse what would train on less than it says: an unfinished store, episodes without steps."""
    check_complete(source)
    if not source.lengths.all():
        episode = int(np.flatnonzero(source.lengths == 0)[0])
        raise BadEpisode(source.path, episode, "has no steps; 'lightning data convert --skip-bad' leaves it out")


READERS = {
    "store": Kind(
        "jepakit.datamodules.readers.registry:_open_store",
        lambda location: location.name == MANIFEST or (location / MANIFEST).exists(),
        f"a store directory (with {MANIFEST})",
    ),
    "hdf5": Kind("jepakit.datamodules.readers.hdf5:HDF5Reader", _is_hdf5, "an HDF5 file (.h5, .hdf5)"),
    "lance": Kind(
        "jepakit.datamodules.readers.lance:LanceReader",
        lambda location: (location / "_versions").exists(),
        "a Lance table (.lance)",
        "lance",
    ),
    "dinowm": Kind(
        "jepakit.datamodules.readers.dinowm:DINOWMReader",
        lambda location: (location / "seq_lengths.pkl").exists(),
        "a DINO-WM folder (with seq_lengths.pkl)",
        "data,train",
    ),
    "lerobot": Kind(
        "jepakit.datamodules.readers.lerobot:LeRobotReader",
        lambda location: (location / "meta/info.json").exists(),
        "a LeRobot v3 data set (with meta/info.json)",
    ),
}


def open_source(path: str | Path, *, kind: str | None = None, check: bool = True) -> EpisodeSource:
    """Open a data set: a path of this machine or any URL that fsspec knows.

    ``kind`` names the format where the path shows several. ``check=False`` leaves unfinished stores and empty episodes
    to the caller (doctor and conversion report them). Raises ``FileNotFoundError`` for nothing there, ``ValueError``
    for an unknown or ambiguous kind and whatever the reader finds wrong, ``BadEpisode`` for an episode without steps.
    """
    location = Location.of(path)
    if kind is not None and kind not in READERS:
        raise ValueError(f"kind: found {kind!r}, expected one of {', '.join(READERS)}")
    reader = READERS[kind or detect(location)]
    module, _, name = reader.target.partition(":")
    try:
        with naming(location):
            source: EpisodeSource = getattr(importlib.import_module(module), name)(location)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{location}: {reader.description} needs the module {error.name!r}; "
            f"install it with: pip install 'jepakit[{reader.extra}]'"
        ) from error
    if check:
        _check(source)
    return source


def detect(location: Location) -> str:
    """The kind of data set at ``location``, a key of ``READERS``; the errors are those of ``open_source``."""
    if location.suffix == ".lance":  # Lance reaches object stores itself, so nobody else need know the scheme
        return "lance"
    if not location.exists():
        raise FileNotFoundError(f"{location}: no such data set; give the path or URL of one")
    found = [name for name, kind in READERS.items() if kind.recognise(location)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{location}: found several kinds of data set ({', '.join(found)}); say which with kind (--kind)"
        )
    expected = "; ".join(kind.description for kind in READERS.values())
    raise ValueError(f"{location}: unknown kind of data set; expected {expected}")
