"""Conversion of any readable data set into a store, one episode at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.base import BadEpisode, is_camera
from jepakit.datamodules.store import MANIFEST, Array, Codec, Column, EpisodeSource, EpisodeStore, EpisodeWriter

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How to store the frames (``raw`` is fastest, ``png`` exact and smaller, ``jpeg`` smallest), and their size.

    Frames that are not square lose the longer side's ends before they are scaled to ``image_size``; ``None`` keeps them
    as they are. ``skip_bad`` leaves out episodes that cannot be used instead of stopping at the first.
    """

    frames: Codec = "raw"
    image_size: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size: found {self.image_size}, expected at least 1 pixel")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion wrote: the store, its number of episodes, and what was left out."""

    path: Path
    episodes: int
    skipped: tuple[BadEpisode, ...]


def read_episode(source: EpisodeSource, episode: int) -> dict[str, Array]:
    """All columns of one episode, ``(steps, …)`` each.

    Raises ``BadEpisode`` for an episode without steps, one that cannot be read, and numbers that are not finite (except
    the last action).
    """
    length = int(source.lengths[episode])
    if not length:
        raise BadEpisode(source.path, episode, "has no steps")
    rows = source.offsets[episode] + np.arange(length)
    columns = {name: source.read(name, rows) for name in source.columns}
    for name, values in columns.items():
        checked = values[:-1] if name == "action" else values
        if values.dtype.kind == "f" and not np.isfinite(checked).all():
            row = int(np.flatnonzero(~np.isfinite(checked).reshape(len(checked), -1).all(axis=1))[0])
            raise BadEpisode(
                source.path,
                episode,
                f"column {name!r}: found {values[row].tolist()} in step {row}, expected finite numbers",
            )
    return columns


def fit_frames(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre square of frames ``(n, h, w, 3)``, scaled to ``size`` with antialiasing."""
    from PIL import Image

    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    squares = frames[:, top : top + side, left : left + side]
    scaled = [Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR) for square in squares]
    return np.stack([np.asarray(frame) for frame in scaled])


def convert(
    source: EpisodeSource, destination: Path, conversion: Conversion, *, progress: Progress | None = None
) -> Converted:
    """Write the episodes of ``source`` into a store at ``destination``; ``progress(done, total)`` counts episodes.

    An interrupted or failed conversion leaves a store that is marked incomplete and holds whole episodes; the same call
    continues it. Raises ``FileExistsError`` for a complete store, ``BadEpisode`` for the first episode that cannot be
    used (unless those are skipped), ``OSError`` naming the episode when the disk is full.
    """
    if (destination / MANIFEST).exists() and EpisodeStore(destination).complete:
        raise FileExistsError(f"{destination}: a complete store is there already; choose another path or remove it")
    columns = {name: _stored(name, column, conversion) for name, column in source.columns.items()}
    settings = {
        "source": Path(source.path).name,
        "source_fingerprint": source.fingerprint,
        "image_size": conversion.image_size,
        "fps": getattr(source, "fps", None),
    }
    skipped: list[BadEpisode] = []
    with EpisodeWriter(destination, columns, settings=settings) as writer:
        earlier, usable = writer.committed, 0
        for episode in range(len(source.lengths)):
            try:
                values = read_episode(source, episode)
            except BadEpisode as error:
                if not conversion.skip_bad:
                    raise
                skipped.append(error)
            else:
                usable += 1
                if usable > earlier:  # the ones before were committed by an earlier call
                    writer.append(_fitted(values, columns))
            if progress is not None:
                progress(episode + 1, len(source.lengths))
        if not usable:
            raise ValueError(f"{source.path}: none of {len(skipped)} episodes can be used; first: {skipped[0]}")
    return Converted(path=destination, episodes=usable, skipped=tuple(skipped))


def _stored(name: str, column: Column, conversion: Conversion) -> Column:
    if not is_camera(name):
        return Column(dtype=column.dtype, shape=column.shape)
    size = conversion.image_size
    return Column(dtype="uint8", shape=column.shape if size is None else (size, size, 3), codec=conversion.frames)


def _fitted(values: dict[str, Array], columns: dict[str, Column]) -> dict[str, Array]:
    """The episode with its frames in the stored size."""
    return {
        name: fit_frames(rows, columns[name].shape[0]) if rows.shape[1:] != columns[name].shape else rows
        for name, rows in values.items()
    }
