"""What every engine does around its calls: check what comes in, pad short plans, cut large calls into pieces.

Needs NumPy only. Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S
candidates, K horizon in blocks, A action-block width, P proprio width, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jepakit.planning.backend import Frames, PlannerSpec
from jepakit.planning.solver import Array


def check_frames(spec: PlannerSpec, frames: Frames, proprio: Array | None) -> None:
    """Raise ``ValueError`` unless ``frames`` (B, T, h, w, 3) and ``proprio`` (B, T, P) are what the encoder takes."""
    side = spec.image_size
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[2:] != (side, side, 3):
        raise ValueError(
            f"frames: found {frames.dtype} of shape {frames.shape}, expected uint8 of shape (B, T, {side}, {side}, 3): "
            "render or resize them to the model's image size"
        )
    if spec.whole_history and not 1 <= frames.shape[1] <= spec.history:
        raise ValueError(f"frames: found {frames.shape[1]} at once, expected 1 to {spec.history} (the trained history)")
    if spec.proprio:
        _check("proprio", proprio, (*frames.shape[:2], spec.proprio))


def check_score(spec: PlannerSpec, history: Array, past_actions: Array, candidates: Array, goal: Array) -> None:
    """Raise ``ValueError`` unless the arguments of ``Backend.score`` have fitting shapes and finite values."""
    frames = history.shape[1] if history.ndim == 4 else 0
    if not 1 <= frames <= spec.history:
        raise ValueError(
            f"history: found shape {history.shape}, expected (B, H, {spec.tokens}, {spec.width}) with H from 1 to "
            f"{spec.history}"
        )
    batch = len(history)
    _check("history", history, (batch, frames, spec.tokens, spec.width))
    _check("past_actions", past_actions, (batch, frames - 1, spec.block_width))
    _check("goal", goal, (batch, spec.tokens, spec.width))
    if candidates.ndim != 4:
        raise ValueError(f"candidates: found shape {candidates.shape}, expected (B, S, K, {spec.block_width})")
    _check("candidates", candidates, (batch, *candidates.shape[1:3], spec.block_width))
    if spec.horizon is not None and not 1 <= candidates.shape[2] <= spec.horizon:
        raise ValueError(
            f"candidates: found a horizon of {candidates.shape[2]} blocks, expected 1 to {spec.horizon}, which the "
            "bundle was exported with; export with a larger --horizon or plan fewer blocks"
        )


def padded(spec: PlannerSpec, candidates: Array) -> Array:
    """Return candidates (B, S, K, A) of exactly the exported horizon, continued with the mean action.

    What comes after a block does not change what is imagined up to it, so the first K steps of the answer are exact.
    """
    assert spec.horizon is not None
    missing = spec.horizon - candidates.shape[2]
    if not missing:
        return candidates
    rest = np.broadcast_to(spec.action_mean, (*candidates.shape[:2], missing, spec.block_width))
    return np.concatenate([candidates, rest], axis=2)


def pieces(count: int, at_once: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of ``at_once``; the last may be shorter."""
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))


def _check(name: str, array: Array | None, shape: tuple[int, ...]) -> None:
    if array is None or array.dtype != np.float32 or array.shape != shape:
        found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{name}: found {found}, expected float32 of shape {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: found NaN or infinite values, expected finite ones")
