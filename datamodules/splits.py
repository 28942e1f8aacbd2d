"""Split by episode, and the statistics of the training part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.store import EpisodeSource
from jepakit.datamodules.windows import Statistics

Part = Literal["train", "val", "test"]
Bounds = tuple[NDArray[np.float32], NDArray[np.float32]]


def split_episodes(count: int, *, val: float, test: float, seed: int) -> dict[Part, NDArray[np.int64]]:
    """Partition episodes ``0 … count−1`` into sorted, disjoint parts; val and test get at least one each."""
    if count < 3:
        raise ValueError(f"split: found {count} episodes, expected at least 3 (train, val and test)")
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(f"split: found val={val} and test={test}, expected positive shares that leave some to train")
    order = np.random.default_rng([seed, count]).permutation(count)
    n_val, n_test = max(1, round(val * count)), max(1, round(test * count))
    if n_val + n_test >= count:
        raise ValueError(
            f"split: found val={val} and test={test} of {count} episodes, which leave none to train; lower them"
        )
    parts = np.split(order, [n_val, n_val + n_test])
    return {"val": np.sort(parts[0]), "test": np.sort(parts[1]), "train": np.sort(parts[2])}


def fit_statistics(
    source: EpisodeSource, groups: Sequence[tuple[NDArray[np.int64], float]], frame_skip: int, bounds: Bounds | None
) -> Statistics:
    """Statistics of actions and proprioception in groups of (episodes, weight).

    Without known ``bounds`` of the actions the observed range is taken.

    Each group counts by its weight, however many actions it has: what a batch looks like is what must be standardised.
    """
    groups_actions = [_actions(source, episodes) for episodes, _ in groups]
    weights = np.array([weight for _, weight in groups]) / sum(weight for _, weight in groups)
    mean, std = _moments(groups_actions, weights)
    if (std == 0).any():
        raise ValueError(
            f"{source.path}: column 'action': dimensions {np.flatnonzero(std == 0).tolist()} are constant, so they "
            "cannot be standardised; remove them from the data"
        )
    proprio: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    if "proprio" in source.columns:
        proprio = _moments([_proprio(source, episodes) for episodes, _ in groups], weights)
    low = np.min([actions.min(axis=0) for actions in groups_actions], axis=0).astype(np.float32)
    high = np.max([actions.max(axis=0) for actions in groups_actions], axis=0).astype(np.float32)
    low, high = bounds or (low, high)
    return Statistics(
        action_mean=np.tile(mean, frame_skip).astype(np.float32),
        action_std=np.tile(std, frame_skip).astype(np.float32),
        action_low=low,
        action_high=high,
        proprio_mean=None if proprio is None else proprio[0].astype(np.float32),
        # a constant column says nothing: leave it at 0 rather than divide by 0
        proprio_std=None if proprio is None else np.where(proprio[1] > 0, proprio[1], 1).astype(np.float32),
    )


def _moments(
    groups: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and population standard deviation of the columns of weighted groups."""
    mean = weights @ np.stack([values.mean(axis=0) for values in groups])
    return mean, np.sqrt(weights @ np.stack([((values - mean) ** 2).mean(axis=0) for values in groups]))


def _rows(source: EpisodeSource, episodes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([source.offsets[e] + np.arange(source.lengths[e]) for e in episodes])


def _actions(source: EpisodeSource, episodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """All actions of the episodes but the NaN that ends an episode; raises ``ValueError`` for any other."""
    rows = _rows(source, episodes)
    actions = source.read("action", rows).astype(np.float64)
    last = np.cumsum(source.lengths[episodes]) - 1
    missing = np.asarray(np.isnan(actions).any(axis=1))
    missing[last] = False
    bad = missing | np.isinf(actions).any(axis=1)
    if bad.any():
        row, where = _first(bad, source, "action", episodes)
        raise ValueError(
            f"{where}: found {actions[row].tolist()} before the last step, expected finite numbers; repair the data or "
            "drop the episode"
        )
    return actions[~np.isnan(actions).any(axis=1)]


def _proprio(source: EpisodeSource, episodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """All proprioception of the episodes, (rows, P); raises ``ValueError`` for what is not finite."""
    rows = _rows(source, episodes)
    values = source.read("proprio", rows).astype(np.float64).reshape(len(rows), -1)
    bad = np.asarray(~np.isfinite(values).all(axis=1))
    if bad.any():
        row, where = _first(bad, source, "proprio", episodes)
        raise ValueError(
            f"{where}: found {values[row].tolist()}, expected finite numbers; repair the data or drop the episode"
        )
    return values


def _first(bad: NDArray[np.bool_], source: EpisodeSource, column: str, episodes: NDArray[np.int64]) -> tuple[int, str]:
    """The first bad one of the rows of the episodes, and the column and episode that errors name."""
    row = int(np.flatnonzero(bad)[0])
    episode = int(episodes[np.searchsorted(np.cumsum(source.lengths[episodes]), row, side="right")])
    return row, f"{source.path}: column {column!r} of episode {episode}"
