"""Features or slots computed elsewhere, as an episode store that a data module takes as its ``features``.

Shape letters: N tokens or slots per frame, E their width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from jepakit.datamodules.store import Array, Column, EpisodeSource, EpisodeWriter, refuse_complete
from jepakit.datamodules.store.manifest import sha256_of
from jepakit.untrusted import check_contained, naming

_COLUMN = "features"
_KEY = re.compile(r"(?:.*\D)?(\d+)")  # episode_12, 12, train/0012


def store_features(file: str | Path, data: EpisodeSource, destination: str | Path) -> Path:
    """Write the features in ``file`` as a store beside the episodes of ``data``; returns ``destination``.

    ``file`` is an ``.npz`` or HDF5 file with one floating-point array (steps, N, E) per episode, whose key ends in the
    episode's number, from 0 on and in the order of ``data``: ``0``, ``episode_0`` or ``00000``. A row belongs to the
    row of ``data`` with the same number, whatever the frame skip. Nothing is unpickled.

    Raises ``ValueError``, before anything is written, for missing, surplus or unnumbered episodes, and for arrays of
    another length, shape or type than expected, or with numbers that are not finite. What was interrupted is continued
    with the same file only; a complete store is a ``FileExistsError``.

    Use it as ``PushT(data, features=str(store_features("slots.npz", open_source(data), "slots")))``.
    """
    file, destination = Path(file), Path(destination)
    refuse_complete(destination)
    with _arrays(file) as (names, read):
        keys = _episodes(names, len(data.lengths), file)
        shape = read(keys[0]).shape[1:] if keys else ()
        for episode, key in enumerate(keys):
            _check(read(key), (int(data.lengths[episode]), *shape), f"{file}: {key!r}")
        settings = {"source": file.name, "source_sha256": sha256_of(file), "source_fingerprint": data.fingerprint}
        column = Column(dtype="float32", shape=shape)
        with EpisodeWriter(destination, {_COLUMN: column}, settings=settings) as writer:
            for key in keys[writer.committed :]:
                writer.append({_COLUMN: read(key).astype(np.float32)})
    return destination


@contextmanager
def _arrays(file: Path) -> Iterator[tuple[list[str], Callable[[str], Array]]]:
    """Names of the arrays in a file, and what reads one of them."""
    if file.suffix == ".npz":
        with naming(file):
            archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{file}: found one array, expected an .npz file with one for each episode")
        with archive as arrays:
            yield list(arrays.files), partial(_array, file, arrays)
    elif file.suffix in (".h5", ".hdf5"):
        import h5py

        with naming(file):
            opened = h5py.File(file)
        with opened as arrays:
            names: list[str] = []
            with naming(file):
                arrays.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
                for name in names:
                    check_contained(arrays, name, where=file)
            yield names, partial(_array, file, arrays)
    else:
        raise ValueError(f"{file}: found the ending {file.suffix!r}, expected .npz, .h5 or .hdf5")


def _array(file: Path, arrays: Mapping[str, Array], name: str) -> Array:
    with naming(file):
        return np.asarray(arrays[name])


def _episodes(names: list[str], count: int, file: Path) -> list[str]:
    """Names in the order of episodes 0 … count − 1."""
    matches = {name: _KEY.fullmatch(name) for name in names}
    unnumbered = sorted(name for name, match in matches.items() if match is None)
    if unnumbered:
        raise ValueError(f"{file}: found the key {unnumbered[0]!r}, expected keys that end in an episode's number")
    numbered = {int(match[1]): name for name, match in matches.items() if match is not None}
    if len(numbered) < len(names) or sorted(numbered) != list(range(count)):
        odd = sorted(set(range(count)) ^ set(numbered))[:5]
        raise ValueError(
            f"{file}: found {len(names)} arrays, expected one for each of {count} episodes, numbered 0 to {count - 1}"
            + (f"; missing or surplus: {odd}" if odd else "; some numbers occur twice")
        )
    return [numbered[episode] for episode in range(count)]


def _check(values: Array, expected: tuple[int, ...], where: str) -> None:
    if values.ndim != 3 or values.shape != expected or values.dtype.kind != "f":
        raise ValueError(
            f"{where}: found {values.dtype} of shape {values.shape}, expected floating point (steps, tokens, width) = "
            f"{expected}: as many steps as the episode has, tokens as in episode 0"
        )
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
        raise ValueError(f"{where}: found NaN or infinity in step {step}, expected finite numbers")
