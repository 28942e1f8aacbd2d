"""Pictures of a data set: a contact sheet (PNG) and a mosaic of episodes playing side by side (mp4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store import EpisodeSource

if TYPE_CHECKING:
    from PIL import Image

Frames = NDArray[np.uint8]
_TILE = 128  # smaller frames are enlarged to at least this many pixels
_GAP, _LABEL = 4, 14
_PAPER = 200  # neither white nor black, so that the edges of every frame are seen


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What to show: ``episodes`` spread over the data set, ``frames`` of each on the sheet, ``fps`` of the video."""

    camera: str = "pixels"
    episodes: int = 8
    frames: int = 10
    fps: int = 10

    def __post_init__(self) -> None:
        for name in ("episodes", "frames", "fps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least 1")


def write_preview(source: EpisodeSource, folder: Path, preview: Preview) -> tuple[Path, Path]:
    """Write ``contact-sheet.png`` and ``episodes.mp4`` into ``folder``; each appears only when complete."""
    from PIL import Image

    if preview.camera not in source.columns:
        raise ValueError(f"{source.path}: camera {preview.camera!r} not found; it has {', '.join(source.columns)}")
    column = source.columns[preview.camera]
    if column.dtype != "uint8" or column.shape[2:] != (3,):
        raise ValueError(
            f"{source.path}: camera {preview.camera!r}: found {column.dtype} rows of {column.shape}, expected uint8 "
            "(h, w, 3)"
        )
    filled = np.flatnonzero(source.lengths)
    if not len(filled):
        raise ValueError(f"{source.path}: found no episode with steps, expected at least one to show")
    count = min(preview.episodes, len(filled))
    chosen = filled[np.linspace(0, len(filled) - 1, count).round().astype(np.int64)].tolist()
    folder.mkdir(parents=True, exist_ok=True)
    sheet, video = folder / "contact-sheet.png", folder / "episodes.mp4"
    with _appears_complete(sheet) as temporary:
        Image.fromarray(contact_sheet(source, chosen, preview)).save(temporary)
    with _appears_complete(video) as temporary:
        write_video(temporary, mosaic(source, chosen, preview.camera), fps=preview.fps)
    return sheet, video


def contact_sheet(source: EpisodeSource, episodes: list[int], preview: Preview) -> Frames:
    """One row per episode, time from left to right, with episode and step above every frame."""
    from PIL import Image, ImageDraw

    height, width = _tile_shape(source, preview.camera)
    canvas = Image.new(
        "RGB",
        (_GAP + preview.frames * (width + _GAP), _GAP + len(episodes) * (height + _LABEL + _GAP)),
        (_PAPER,) * 3,
    )
    draw = ImageDraw.Draw(canvas)
    for line, episode in enumerate(episodes):
        length = int(source.lengths[episode])
        steps = np.unique(np.linspace(0, length - 1, preview.frames).round().astype(np.int64))
        frames = source.read(preview.camera, source.offsets[episode] + steps)
        top = _GAP + line * (height + _LABEL + _GAP)
        for place, (step, frame) in enumerate(zip(steps, frames, strict=True)):
            left = _GAP + place * (width + _GAP)
            text = f"episode {episode}, step {step}" if place == 0 else f"{step}"
            draw.text((left, top), text, fill=(0, 0, 0))
            canvas.paste(_tile(frame, height, width), (left, top + _LABEL))
    return np.asarray(canvas)


def mosaic(source: EpisodeSource, episodes: list[int], camera: str) -> Iterator[Frames]:
    """Frames of all episodes side by side, step by step; an episode that is over shows its last frame."""
    height, width = _tile_shape(source, camera)
    across = int(np.ceil(np.sqrt(len(episodes))))
    down = -(-len(episodes) // across)
    canvas = np.full((down * (height + _GAP) + _GAP, across * (width + _GAP) + _GAP, 3), _PAPER, dtype=np.uint8)
    for step in range(int(source.lengths[episodes].max())):
        rows = np.array([source.offsets[e] + min(step, source.lengths[e] - 1) for e in episodes])
        for place, frame in enumerate(source.read(camera, rows)):
            top, left = _GAP + place // across * (height + _GAP), _GAP + place % across * (width + _GAP)
            canvas[top : top + height, left : left + width] = np.asarray(_tile(frame, height, width))
        yield canvas


def write_video(path: Path, frames: Iterator[Frames], *, fps: int) -> None:
    """Encode frames ``(h, w, 3)`` of one size as H.264 in mp4; odd sides lose their last row or column."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        for frame in frames:
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            if stream is None:
                stream = container.add_stream(
                    "libx264", rate=Fraction(fps), options={"crf": "20", "preset": "veryfast"}
                )
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.codec_context.thread_count = 1
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode())


def _tile_shape(source: EpisodeSource, camera: str) -> tuple[int, int]:
    height, width, _ = source.columns[camera].shape
    scale = max(1, -(-_TILE // min(height, width)))
    return height * scale, width * scale


def _tile(frame: Frames, height: int, width: int) -> Image.Image:
    from PIL import Image

    return Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)


@contextmanager
def _appears_complete(path: Path) -> Iterator[Path]:
    """Write to a temporary neighbour that takes the name only when everything is written."""
    temporary = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
