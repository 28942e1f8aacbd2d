"""Conversion of any readable data set into a store, one episode at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.base import BadEpisode, is_camera
from jepakit.datamodules.readers.registry import check_complete
from jepakit.datamodules.store import Array, Codec, Column, EpisodeSource, EpisodeWriter, refuse_complete

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How to store the frames (``raw`` is fastest, ``png`` exact and smaller, ``jpeg`` smallest), and their size.

    Frames that are not square lose the longer side's ends before they are scaled to ``image_size``; ``None`` keeps them
    as they are. Masks, uint8 columns of a camera's height and width, are fitted alike without new values, and stored as
    PNG where frames are not raw. ``skip_bad`` leaves out episodes that cannot be used instead of stopping at the first.
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


def fit_masks(masks: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre square of masks ``(n, h, w, …)``, scaled to ``size`` by the nearest pixel, as ``fit_frames`` does."""
    height, width = masks.shape[1:3]
    side = min(height, width)
    nearest = ((np.arange(size) + 0.5) * side / size).astype(np.int64)
    return masks[:, (height - side) // 2 + nearest][:, :, (width - side) // 2 + nearest]


def convert(
    source: EpisodeSource, destination: Path, conversion: Conversion, *, progress: Progress | None = None
) -> Converted:
    """Write the episodes of ``source`` into a store at ``destination``; ``progress(done, total)`` counts episodes.

    An interrupted or failed conversion leaves a store that is marked incomplete and holds whole episodes; the same call
    continues it after the last episode that was written. Raises ``FileExistsError`` for a complete store,
    ``BadEpisode`` for the first episode that cannot be used (unless those are skipped), ``ValueError`` for a source
    that is an unfinished store or has no usable episode, ``OSError`` naming the episode when the disk is full.
    """
    refuse_complete(destination)
    check_complete(source)
    columns = {name: _stored(name, source, conversion) for name in source.columns}
    settings = {
        "source": Path(source.path).name,
        "source_fingerprint": source.fingerprint,
        "image_size": conversion.image_size,
        "fps": getattr(source, "fps", None),
    }
    total = len(source.lengths)
    with EpisodeWriter(destination, columns, settings=settings) as writer:
        written = writer.committed
        kept = [episode for episode in range(total) if episode not in writer.skipped]
        for episode in range(kept[written - 1] + 1 if written else 0, total):
            try:
                values = read_episode(source, episode)
            except BadEpisode as error:
                if not conversion.skip_bad:
                    raise
                writer.skipped[episode] = error.problem
            else:
                writer.skipped.pop(episode, None)  # it can be read now
                written = writer.append(_fitted(values, columns)) + 1
            if progress is not None:
                progress(episode + 1, total)
        skipped = tuple(BadEpisode(source.path, *problem) for problem in sorted(writer.skipped.items()))
        if not written:
            first = f"; first: {skipped[0]}" if skipped else ""
            raise ValueError(f"{source.path}: none of {total} episodes can be used{first}")
    return Converted(path=destination, episodes=written, skipped=skipped)


def _stored(name: str, source: EpisodeSource, conversion: Conversion) -> Column:
    column, size = source.columns[name], conversion.image_size
    if not is_camera(name) and not _is_mask(column, source):
        return Column(dtype=column.dtype, shape=column.shape)
    shape = column.shape if size is None else (size, size, *column.shape[2:])
    if is_camera(name):
        return Column(dtype="uint8", shape=shape, codec=conversion.frames)
    as_file = conversion.frames != "raw" and shape[2:] in ((), (3,))
    return Column(dtype="uint8", shape=shape, codec="png" if as_file else "raw")


def _is_mask(column: Column, source: EpisodeSource) -> bool:
    """Whether a column that is no camera has a value for every pixel of one."""
    sizes = {camera.shape[:2] for name, camera in source.columns.items() if is_camera(name)}
    return column.dtype == "uint8" and column.shape[:2] in sizes


def _fitted(values: dict[str, Array], columns: dict[str, Column]) -> dict[str, Array]:
    """The episode with its frames and masks in the stored size."""
    fitted = dict(values)
    for name, rows in values.items():
        if rows.shape[1:] != columns[name].shape:
            fit = fit_frames if is_camera(name) else fit_masks
            fitted[name] = fit(rows, columns[name].shape[0])
    return fitted
