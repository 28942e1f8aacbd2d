"""Checks of the pictures: black, frozen, slower than the actions, mixed sizes.

Two frames are *alike* when no channel of any pixel differs by more than 16 of 255, which is above the noise of JPEG and
H.264 in a still scene and below any edge that moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.doctor.report import Report
from jepakit.datamodules.store import Array

_BLACK, _ALIKE = 16, 16
_MOVED = 0.25  # of a standard deviation: a state that moves this far must be seen to move
_RUN = 3  # alike pairs that count as a picture at rest
_CHUNK = 64
_PERIODS = range(2, 11)


@dataclass(kw_only=True)
class FrameTally:
    """What has been seen of one camera so far."""

    column: str
    looked_at: int = 0
    black: dict[int, int] = field(default_factory=dict)
    #: Episode → first row and rows of the longest run that the state moves in.
    frozen: dict[int, tuple[int, int]] = field(default_factory=dict)
    still: dict[int, int] = field(default_factory=dict)
    changes: list[NDArray[np.int64]] = field(default_factory=list)  # rows at which the picture changes, per episode
    pairs: int = 0

    def add(self, episode: int, dark: NDArray[np.bool_], alike: NDArray[np.bool_], state: Array | None) -> None:
        """Count an episode: ``dark`` (n,) per frame, ``alike`` (n−1,) per pair, ``state`` (n, D) in std units."""
        self.looked_at += len(dark)
        self.pairs += len(alike)
        if dark.any():
            self.black[episode] = int(dark.sum())
        self.changes.append(np.flatnonzero(~alike) + 1)
        if len(alike) > 1 and alike.all():
            self.still[episode] = len(alike)
        if state is not None:
            moved = [
                (length + 1, first)
                for first, length in runs(alike)
                if length >= _RUN and np.abs(state[first : first + length + 1] - state[first]).max() > _MOVED
            ]
            if moved:
                length, first = max(moved)
                self.frozen[episode] = (first, length)


def look_at(frames: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per frame whether it is black, per consecutive pair whether it is alike; ``frames`` (n, h, w, 3)."""
    dark = frames.reshape(len(frames), -1).max(axis=1, initial=0) <= _BLACK
    alike = np.ones(max(len(frames) - 1, 0), dtype=bool)
    for begin in range(0, len(alike), _CHUNK):
        part = frames[begin : begin + _CHUNK + 1]
        higher, lower = np.maximum(part[1:], part[:-1]), np.minimum(part[1:], part[:-1])
        alike[begin : begin + _CHUNK] = (higher - lower).reshape(len(part) - 1, -1).max(axis=1) <= _ALIKE
    return dark, alike


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and length of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(begin, end - begin) for begin, end in edges.reshape(-1, 2).tolist()]


def check_frames(report: Report, tally: FrameTally, frame_skip: int) -> None:
    """Findings and figures of one camera once all its frames were looked at."""
    name = tally.column
    changed = sum(len(change) for change in tally.changes)
    report.figures.setdefault("frames", {})[name] = {
        "looked_at": tally.looked_at,
        "black": sum(tally.black.values()),
        "unchanged_pairs": (1 - changed / tally.pairs) if tally.pairs else None,
    }
    if tally.black:
        report.add("error", name, f"{sum(tally.black.values())} black frames", list(tally.black))
    if tally.frozen:
        worst = max(tally.frozen, key=lambda episode: tally.frozen[episode][1])
        first, rows = tally.frozen[worst]
        where = f"longest: rows {first} to {first + rows - 1} of episode {worst}"
        report.add("error", name, f"the picture is frozen while the state moves ({where})", list(tally.frozen))
    still = [episode for episode in tally.still if episode not in tally.frozen]
    if still:
        report.add("warning", name, "the picture never changes", still)
    period = slower_by(tally.changes, tally.pairs)
    if period > 1 and frame_skip % period:
        report.add(
            "error",
            "time",
            f"{name!r} changes only every {period} rows, so the pictures are {period} times slower than the actions; "
            f"frame_skip is {frame_skip}, expected a multiple of {period}",
        )
    elif period > 1:
        report.add(
            "note", "time", f"{name!r} changes only every {period} rows; frame_skip {frame_skip} is a multiple of it"
        )


def slower_by(changes: list[NDArray[np.int64]], pairs: int) -> int:
    """The largest period k such that pictures change at one phase of k rows only; 1 when they change anywhere."""
    total = sum(len(change) for change in changes)
    best = 1
    for period in _PERIODS:
        together = sum(int(np.bincount(change % period, minlength=period).max()) for change in changes if len(change))
        if total >= 10 and together >= 0.95 * total and total > 0.5 * pairs / period:
            best = period
    return best
