"""Frames of known states, their latents, and what is known of them: what the probes of a callback fit and report on.

Shape letters: F frames, N latent tokens per frame, D latent width, P proprioception, Q quantities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.splits import Part
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.zoo.base import WorldModel

Array = NDArray[np.float32]

AT_ONCE = 32  # frames or windows computed at once


@dataclass(frozen=True)
class KnownFrames:
    """Frames (F, h, w, 3) drawn from one part of the episodes, with proprioception (F, P) and quantities (F, Q)."""

    pixels: NDArray[np.uint8]
    proprio: Array | None
    values: Array
    names: tuple[str, ...]

    def latents(self, model: WorldModel) -> Array:
        """Latents (F, N, D), every frame encoded for itself.

        Slots, whose order means nothing, become one token (F, 1, 3 · D): their mean, largest and smallest numbers.
        """
        found = encode_frames(TorchBackend(model, environments_per_call=AT_ONCE), self.pixels, self.proprio)
        if not model.follows_objects:
            return found
        return np.concatenate([found.mean(axis=1), found.max(axis=1), found.min(axis=1)], axis=1)[:, None]


def draw_frames(data: EpisodeDataModule, part: Part, *, count: int, seed: int = 0) -> KnownFrames:
    """Draw ``count`` frames, or all if there are fewer, from the episodes of ``part``.

    Quantities are the entries of ``state`` by the environment's names, its angles as sine and cosine.
    Raises ``ValueError`` for data without ``state``.
    """
    source = data.source
    if "state" not in source.columns:
        raise ValueError(
            f"{source.path}: found columns {', '.join(source.columns)}, expected also 'state', which is probed for"
        )
    rows = np.concatenate([source.offsets[e] + np.arange(source.lengths[e]) for e in data.parts[part]])
    rows = np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))
    state = source.read("state", rows)
    values, names = quantities(state, data.state_names or _numbered(state.shape[1]), data.angle_names)
    return KnownFrames(
        pixels=source.read("pixels", rows),
        proprio=source.read("proprio", rows) if "proprio" in source.columns else None,
        values=values,
        names=names,
    )


def quantities(state: NDArray[Any], names: tuple[str, ...], angles: frozenset[str]) -> tuple[Array, tuple[str, ...]]:
    """Return named quantities (F, Q) of states (F, P): angles, in radians, as two columns ``_sin`` and ``_cos``."""
    columns: dict[str, Array] = {}
    for name, column in zip(names, state.T, strict=True):
        parts = {f"{name}_sin": np.sin(column), f"{name}_cos": np.cos(column)} if name in angles else {name: column}
        columns.update(parts)
    return np.stack(list(columns.values()), axis=1).astype(np.float32), tuple(columns)


def encode_frames(backend: TorchBackend, frames: NDArray[np.uint8], proprio: NDArray[Any] | None) -> Array:
    """Latents (F, N, D) of frames (F, h, w, 3), each for itself."""
    felt = None if proprio is None or not backend.spec.proprio else np.asarray(proprio, np.float32)[:, None]
    return backend.encode(frames[:, None], felt)[:, 0]


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"state_{index}" for index in range(count))
