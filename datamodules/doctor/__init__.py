"""The doctor: what is wrong with a data set before a model learns it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jepakit.datamodules.doctor.columns import (
    check_actions,
    check_duplicates,
    check_states,
    check_time,
    measure_contacts,
    measure_coverage,
)
from jepakit.datamodules.doctor.frames import FrameTally, check_frames, look_at
from jepakit.datamodules.doctor.report import Finding, Level, Report
from jepakit.datamodules.readers.base import is_camera
from jepakit.datamodules.readers.lerobot import LeRobotReader
from jepakit.datamodules.store import Array, EpisodeSource, EpisodeStore

__all__ = ["Checkup", "Finding", "Report", "diagnose"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """The windows the data should serve, and how many frames to look at (0: all; they are spread over the episodes)."""

    history: int = 3
    predictions: int = 1
    frame_skip: int = 5
    frames: int = 5000

    def __post_init__(self) -> None:
        for name, least in (("history", 1), ("predictions", 1), ("frame_skip", 1), ("frames", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least {least}")

    @property
    def window(self) -> int:
        """Rows that a window spans."""
        return (self.history + self.predictions) * self.frame_skip


def diagnose(source: EpisodeSource, checkup: Checkup, *, progress: Progress | None = None) -> Report:
    """Look at every number and at ``checkup.frames`` frames of a data set.

    What cannot be read is an error in the report, naming the episode; ``progress(done, total)`` counts episodes.
    """
    report = Report(path=str(source.path))
    _check_integrity(report, source)
    if not len(source.lengths):  # as a conversion leaves it that was stopped before its first
        report.add("error", "length", "no episodes")
        return report
    missing = [name for name in ("pixels", "action") if name not in source.columns]
    if missing:  # as in a store of features
        report.add("error", "unreadable", f"columns {missing} not found; it has {', '.join(source.columns)}")
        return report
    _check_lengths(report, source, checkup.window)
    readable = _read_numbers(report, source, progress)
    if readable:
        check_actions(report, readable)
        check_states(report, readable)
        camera_fps: dict[str, float] = source.camera_fps() if isinstance(source, LeRobotReader) else {}
        check_time(report, readable, fps=_rate(source), camera_fps=camera_fps)
        check_duplicates(report, readable)
        measure_coverage(report, readable)
        measure_contacts(report, readable, checkup.window)
    _look_at_frames(report, source, readable, checkup, progress)
    return report


def _rate(source: EpisodeSource) -> float | None:
    """Rows per second where the data set says it; a converted store remembers."""
    rate = getattr(source, "fps", None)
    return float(rate) if rate else None


def _check_integrity(report: Report, source: EpisodeSource) -> None:
    """Whether a store is complete and its files are what was written; other formats do not say."""
    if not isinstance(source, EpisodeStore):
        return
    if not source.complete:
        report.add("error", "integrity", "the store is not complete; run what was writing it again to finish it")
    damages = source.verify()
    for damage in damages:
        report.add(
            "error", "integrity", f"{damage.file}: {damage.problem}", range(damage.episodes[0], damage.episodes[1] + 1)
        )
    report.figures["integrity"] = f"{len(damages)} damaged files" if damages else "all hashes match"


def _check_lengths(report: Report, source: EpisodeSource, window: int) -> None:
    lengths = source.lengths
    report.figures["episodes"] = len(lengths)
    report.figures["rows"] = int(lengths.sum())
    report.figures["steps"] = {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())}
    report.figures["windows"] = int(np.maximum(lengths - window + 1, 0).sum())
    empty, short = np.flatnonzero(lengths == 0), np.flatnonzero((lengths > 0) & (lengths < window))
    if len(empty):
        report.add("error", "length", "no steps", empty.tolist())
    if len(short):
        level: Level = "error" if (lengths < window).all() else "warning"
        report.add(level, "length", f"shorter than a window of {window} rows, so never used", short.tolist())


def _read_numbers(report: Report, source: EpisodeSource, progress: Progress | None) -> dict[int, dict[str, Array]]:
    """All columns but the cameras, by episode; those that cannot be read become findings."""
    names = [name for name in source.columns if not is_camera(name)]
    episodes = {}
    for episode in np.flatnonzero(source.lengths).tolist():
        rows = source.offsets[episode] + np.arange(source.lengths[episode])
        try:
            episodes[episode] = {name: source.read(name, rows) for name in names}
        except ValueError as error:
            report.add("error", "unreadable", str(error), [episode])
        if progress is not None:
            progress(episode + 1, len(source.lengths))
    return episodes


def _look_at_frames(
    report: Report,
    source: EpisodeSource,
    numbers: dict[int, dict[str, Array]],
    checkup: Checkup,
    progress: Progress | None,
) -> None:
    """Check whole episodes, evenly spread, until the budget of frames is spent."""
    filled = np.flatnonzero(source.lengths)
    budget = checkup.frames or int(source.lengths.sum())
    count = min(len(filled), max(1, round(budget / max(source.lengths[filled].mean(), 1)))) if len(filled) else 0
    chosen = filled[np.linspace(0, len(filled) - 1, count).round().astype(np.int64)] if count else filled
    cameras = [name for name in source.columns if is_camera(name)]
    states = _standardised(numbers)
    for name in cameras:
        tally = FrameTally(column=name)
        for done, episode in enumerate(chosen.tolist(), start=1):
            rows = source.offsets[episode] + np.arange(source.lengths[episode])
            try:
                dark, alike = look_at(source.read(name, rows))
            except ValueError as error:
                report.add("error", "unreadable", str(error), [episode])
            else:
                tally.add(episode, dark, alike, states.get(episode))
            if progress is not None:
                progress(done, len(chosen))
        check_frames(report, tally, checkup.frame_skip)


def _standardised(numbers: dict[int, dict[str, Array]]) -> dict[int, Array]:
    """State (or proprio) of every episode in units of its standard deviation; entries that never move are left out.

    Entries that jump from row to row, such as velocities, are not seen to move: their unit is larger, twelve times
    their root-mean-square change per row.
    """
    name = next((n for n in ("state", "proprio") if any(n in columns for columns in numbers.values())), None)
    if name is None:
        return {}
    rows = np.concatenate([columns[name] for columns in numbers.values()])
    std = rows.reshape(len(rows), -1).std(axis=0)
    keep = np.isfinite(std) & (std > 0)
    if not keep.any():
        return {}
    states = {episode: columns[name].reshape(len(columns[name]), -1)[:, keep] for episode, columns in numbers.items()}
    changes = np.concatenate([np.diff(state, axis=0) for state in states.values()])
    unit = np.maximum(std[keep], 12 * np.sqrt(np.mean(changes**2, axis=0, dtype=np.float64)))
    return {episode: state / unit for episode, state in states.items()}
