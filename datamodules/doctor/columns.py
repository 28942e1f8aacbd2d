"""Checks of the numbers: actions, states, time, duplicates, coverage, contacts.

Shape letters: n rows of one episode, C raw action width, D state width.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.doctor.report import Report
from jepakit.datamodules.store import Array

Episodes = Mapping[int, Mapping[str, Array]]  # episode → column → (n, …)

_OUTLIER = 10.0  # standard deviations; uniform noise reaches 1.7, Gaussian noise 5
_STEP_TOLERANCE = 0.2  # of the expected time between two rows
_LATE_ROWS = 0.02  # share of rows whose time may be off
_BINS, _PAIR_BINS = 16, 8


def check_actions(report: Report, episodes: Episodes) -> None:
    """NaN before the last step, infinities, constant dimensions, outliers; figures of range and spread."""
    broken, infinite, values = [], [], []
    for episode, columns in episodes.items():
        action = columns["action"]
        if np.isnan(action[:-1]).any():
            broken.append(episode)
        if np.isinf(action).any():
            infinite.append(episode)
        values.append(action[np.isfinite(action).all(axis=1)])
    if broken:
        report.add("error", "action", "NaN before the last step", broken)
    if infinite:
        report.add("error", "action", "infinite values", infinite)
    finite = np.concatenate(values).astype(np.float64)
    if not len(finite):
        report.add("error", "action", "no finite action at all")
        return
    low, high, mean, std = finite.min(0), finite.max(0), finite.mean(0), finite.std(0)
    report.figures["action"] = {
        "low": low.tolist(), "high": high.tolist(), "mean": mean.tolist(), "std": std.tolist(),
    }  # fmt: skip
    if (std == 0).any():
        constant = np.flatnonzero(std == 0).tolist()
        report.add(
            "error", "action", f"dimensions {constant} are constant, so they cannot be standardised; remove them"
        )
    far = np.abs(finite - mean).max(0) > _OUTLIER * np.maximum(std, 1e-12)
    if (far & (std > 0)).any():
        dimensions = np.flatnonzero(far & (std > 0)).tolist()
        report.add("warning", "action", f"dimensions {dimensions} have values beyond {_OUTLIER:g} standard deviations")


def check_states(report: Report, episodes: Episodes) -> None:
    """NaN and constant entries of ``state`` and ``proprio``."""
    for name in ("state", "proprio"):
        present = {episode: columns[name] for episode, columns in episodes.items() if name in columns}
        if not present:
            continue
        broken = [episode for episode, values in present.items() if not np.isfinite(values).all()]
        if broken:
            report.add("error", name, "NaN or infinite values", broken)
        values = np.concatenate(list(present.values()))
        values = values.reshape(len(values), -1)
        constant = np.flatnonzero(values.max(0) == values.min(0)).tolist() if len(values) else []
        if constant:
            report.add("note", name, f"entries {constant} are constant: they say nothing to a probe")


def check_time(report: Report, episodes: Episodes, *, fps: float | None, camera_fps: Mapping[str, float]) -> None:
    """Rows that are not one step apart, time stamps and cameras that disagree with the declared rate."""
    irregular, strides = [], set()
    for episode, columns in episodes.items():
        steps = np.unique(np.diff(columns["step_idx"].astype(np.int64))) if "step_idx" in columns else np.array([1])
        if len(steps) > 1:
            irregular.append(episode)
        strides.update(steps.tolist())
    if irregular:
        report.add("error", "time", "step_idx does not advance evenly: rows are missing or out of order", irregular)
    elif strides - {1}:
        report.add(
            "warning", "time", f"rows are {max(strides)} steps apart; frame_skip counts rows, so it comes on top"
        )
    for name, rate in camera_fps.items():
        if fps and abs(rate / fps - 1) > 0.01:
            report.add("error", "time", f"column {name!r} was filmed at {rate:g} fps, the rows are declared at {fps:g}")
    if fps:
        _check_stamps(report, episodes, fps)


def _check_stamps(report: Report, episodes: Episodes, fps: float) -> None:
    late, rates = [], []
    for episode, columns in episodes.items():
        if "timestamp" in columns and len(columns["timestamp"]) > 1:
            gaps = np.diff(columns["timestamp"].astype(np.float64).ravel())
            if (np.abs(gaps * fps - 1) > _STEP_TOLERANCE).mean() > _LATE_ROWS:
                late.append(episode)
                rates.append(1 / max(float(np.median(gaps)), 1e-9))
    if late:
        report.add("error", "time", f"time stamps advance at {np.median(rates):.4g} Hz, declared are {fps:g} fps", late)


def check_duplicates(report: Report, episodes: Episodes) -> None:
    """Episodes equal in every number: split apart, one of them leaks from training into evaluation."""
    groups = defaultdict(list)
    for episode, columns in episodes.items():
        digest = hashlib.sha256()
        for name in sorted(columns):
            digest.update(np.ascontiguousarray(columns[name]).tobytes())
        groups[digest.digest()].append(episode)
    copies = [group for group in groups.values() if len(group) > 1]
    report.figures["duplicates"] = sum(len(group) - 1 for group in copies)
    for group in copies[:10]:
        report.add("warning", "duplicates", "the same episode; a split may put it into training and test", group)


def measure_coverage(report: Report, episodes: Episodes) -> None:
    """Occupied share of a grid over each state entry, and over each pair of entries.

    The grids have 16 and 8 × 8 cells between the smallest and the largest value; with fewer rows than cells the share
    is of the rows.
    """
    column = "state" if any("state" in columns for columns in episodes.values()) else "proprio"
    values = [columns[column] for columns in episodes.values() if column in columns]
    if not values:
        return
    rows = np.concatenate(values)
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    moving = [] if not len(rows) else np.flatnonzero(rows.max(0) > rows.min(0)).tolist()
    if not moving:
        return
    unit = (rows - rows.min(0)) / np.maximum(rows.max(0) - rows.min(0), 1e-12)
    single = {str(dim): _occupied([unit[:, dim]], _BINS) for dim in moving}
    pairs = [_occupied([unit[:, i], unit[:, j]], _PAIR_BINS) for i in moving for j in moving if i < j]
    report.figures["coverage"] = {
        "column": column,
        "by_entry": single,
        "by_pair": float(np.mean(pairs)) if pairs else None,
    }
    thin = [name for name, share in single.items() if share < 0.5]
    if thin:
        report.add(
            "warning", "coverage", f"{column} entries {', '.join(thin)}: less than half of the range is ever visited"
        )


def _occupied(unit: list[NDArray[np.float64]], bins: int) -> float:
    cells = [np.minimum((values * bins).astype(np.int64), bins - 1) for values in unit]
    index = np.ravel_multi_index(cells, (bins,) * len(cells))
    return float(len(set(index.tolist())) / min(bins ** len(cells), len(index)))


def measure_contacts(report: Report, episodes: Episodes, window: int) -> None:
    """Share of windows of ``window`` rows in which something is touched."""
    touched = windows = 0
    for columns in episodes.values():
        if "contact" in columns and len(columns["contact"]) >= window:
            count = np.concatenate([[0], np.cumsum(columns["contact"].astype(bool).ravel())])
            touched += int((count[window:] > count[:-window]).sum())
            windows += len(count) - window
    report.figures["windows_with_contact"] = touched / windows if windows else None
    if windows and not touched:
        report.add("note", "contact", "no window touches an object: dynamics of objects cannot be learned from it")
