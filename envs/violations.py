"""Impossible continuations of gravity scenes: pairs of clips that agree until one of them breaks a law.

Letters: T rows of a clip, S image size, D state entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.base import Frame, State
from jepakit.envs.gravity import Gravity
from jepakit.envs.scene import FIELDS, FIXED, PRESENT, VX, Impulses, pairs
from jepakit.envs.scene_env import Continuation

Violation = Literal["pass", "hover", "vanish"]
VIOLATIONS: tuple[Violation, ...] = ("pass", "hover", "vanish")
_AIRBORNE = 3  # steps without any contact before an object counts as falling
_FALLING = 20.0  # units/s at which an object that stops is seen to stop


@dataclass(frozen=True, kw_only=True)
class PairedClip:
    """A possible and an impossible clip: rows ``0 … moment`` are the same, row ``moment + 1`` is the first to differ.

    ``kind`` is what ``index``, the object, does against the law: it passes through a ramp or platform, hovers in the
    air, or vanishes. ``*_states`` ``(T, D)``, ``*_frames`` ``(T, S, S, 3)`` uint8.
    """

    kind: Violation
    index: int
    moment: int
    possible_states: State
    impossible_states: State
    possible_frames: Frame
    impossible_frames: Frame


def paired_clips(env: Gravity, count: int, *, steps: int, context: int, seed: int) -> Iterator[PairedClip]:
    """Draw ``count`` pairs of ``steps`` rows, the three kinds of violation in turn.

    At least ``context`` rows come before the first that differs, and as many from it on. Pair i depends on (seed, i)
    alone. Raises ``ValueError`` when a clip is too short for that.
    """
    if context < 1 or steps < 2 * context:
        raise ValueError(f"steps and context: found {steps} and {context}, expected context ≥ 1 and steps ≥ 2·context")
    for number in range(count):
        yield _draw_pair(env, VIOLATIONS[number % 3], steps, context, np.random.default_rng([seed, number]))


def _draw_pair(env: Gravity, kind: Violation, steps: int, context: int, rng: np.random.Generator) -> PairedClip:
    for _ in range(1000):
        start = env.sample_state(rng)
        future, contacts = env.resimulate(start, steps - 1)
        possible = np.concatenate([start[None], future])
        chances = [
            (moment, index)
            for moment, index in np.argwhere(_chances(kind, possible, contacts)).tolist()
            if context - 1 <= moment < steps - context
        ]
        if not chances:
            continue
        moment, index = chances[rng.integers(len(chances))]
        broken = _break(env, kind, possible[moment], steps - 1 - moment, index).states
        impossible = np.concatenate([possible[: moment + 1], broken])
        frames = _frames(env, possible), _frames(env, impossible)
        if (frames[0][moment + 1] != frames[1][moment + 1]).any():
            return PairedClip(
                kind=kind,
                index=index,
                moment=moment,
                possible_states=possible,
                impossible_states=impossible,
                possible_frames=frames[0],
                impossible_frames=frames[1],
            )
    raise ValueError(f"no scene of 1000 allows {kind!r} in {steps} rows after {context} of context; take longer clips")


def _chances(kind: Violation, states: State, contacts: Impulses) -> NDArray[np.bool_]:
    """Mark the last lawful rows that suit a violation of each object, ``(T - 1, N)``."""
    tables = states.reshape(len(states), -1, len(FIELDS))[:-1]
    movable = (tables[..., PRESENT] == 1) & (tables[..., FIXED] == 0)
    if kind == "vanish":
        return np.asarray(movable)
    slots = tables.shape[1]
    touched, supported = np.zeros_like(movable), np.zeros_like(movable)
    fixed = np.append(tables[0, :, FIXED] == 1, False)
    for (first, second), impulses in zip(pairs(slots), contacts.T, strict=True):
        for one, other in ((first, second), (second, first)):
            if one < slots:
                touched[:, one] |= impulses > 0
                supported[:, one] |= (impulses > 0) & fixed[other]
    falling = movable & (tables[..., VX + 1] > _FALLING)
    for back in range(1, _AIRBORNE + 1):
        falling[back:] &= ~touched[:-back]
    falling[:_AIRBORNE] = False
    return np.asarray(falling & (supported if kind == "pass" else ~touched))


def _break(env: Gravity, kind: Violation, state: State, steps: int, index: int) -> Continuation:
    if kind == "vanish":
        return env.resimulate(state, steps, without=index)
    if kind == "pass":
        return env.resimulate(state, steps, ghosts=(index,))
    return env.resimulate(state, steps, frozen=(index,))


def _frames(env: Gravity, states: NDArray[Any]) -> Frame:
    return np.stack([env.picture(state) for state in states])
