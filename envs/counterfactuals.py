"""Which objects matter: what deleting each of them does to the others, and an even choice of such questions.

Letters: N object slots, D = 12 N state entries, L steps, E episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.scene import FIELDS, PRESENT, X
from jepakit.envs.scene_env import SceneEnv


def displacement(states: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far apart each object is in two futures ``(L, D)`` at each step, ``(L, N)``; NaN where absent."""
    first, second = (np.asarray(part, np.float64).reshape(len(part), -1, len(FIELDS)) for part in (states, others))
    apart = np.linalg.norm(first[..., X : X + 2] - second[..., X : X + 2], axis=-1)
    there = (first[..., PRESENT] == 1) & (second[..., PRESENT] == 1)
    return np.where(there, apart, np.nan)


def deletion_effects(
    env: SceneEnv, state: NDArray[Any], steps: int, *, actions: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Return how far deleting each object moves another one within ``steps`` steps, ``(N,)`` world units.

    It is the largest distance over the other objects and the steps; NaN for empty slots. ``actions`` ``(steps, 2)`` are
    the pushes meanwhile.
    """
    factual = env.resimulate(state, steps, actions=actions).states
    effects = np.full(env.slots, np.nan)
    for index in np.flatnonzero(np.asarray(state).reshape(env.slots, len(FIELDS))[:, PRESENT]):
        other = env.resimulate(state, steps, without=int(index), actions=actions).states
        effects[index] = np.nanmax(displacement(factual, other), initial=0.0)
    return effects


def balanced_deletions(
    effects: NDArray[np.float64], *, threshold: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose as many deletions that matter as such that do not, in random order: ``(M, 2)`` of (episode, object).

    Of unbalanced questions most are answered by what really happened. ``effects`` ``(E, N)`` are those of
    :func:`deletion_effects`; a deletion matters when its effect exceeds ``threshold`` world units.
    """
    kinds = [np.argwhere(effects > threshold), np.argwhere(effects <= threshold)]
    count = min(map(len, kinds))
    chosen = np.concatenate([rng.permutation(kind)[:count] for kind in kinds])
    return rng.permutation(chosen)
