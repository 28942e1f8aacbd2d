"""Frames drawn from the episodes, their latents, and what is known of them: what probes fit and report on.

Shape letters: F frames, N latent tokens per frame, D latent width, P proprioception, Q quantities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.splits import Part
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.zoo.base import WorldModel

Array = NDArray[np.float32]

AT_ONCE = 32  # frames or windows computed at once
_READ = ("pixels", "proprio", "state", "features")  # what models may take


@dataclass(frozen=True)
class KnownFrames:
    """Frames drawn from one part of the episodes: columns (F, ...) that models take, and quantities (F, Q)."""

    columns: Mapping[str, NDArray[Any]]
    values: Array
    names: tuple[str, ...]

    def latents(self, model: WorldModel, *, cached: bool = True) -> Array:
        """Latents (F, N, D), every frame encoded for itself; not from features ``cached`` for it, if that is false.

        Slots, whose order means nothing, become one token (F, 1, 3 · D): their mean, largest and smallest numbers.
        """
        device = model.action_mean.device
        given = {name: array for name, array in self.columns.items() if cached or name != "features"}
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(self.values), AT_ONCE):
                rows = {name: array[begin : begin + AT_ONCE, None] for name, array in given.items()}
                seen = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in rows.items()}
                parts.append(model.encode(seen)[:, 0].float().cpu().numpy())
        found = np.concatenate(parts)
        if not model.follows_objects:
            return found
        return np.concatenate([found.mean(axis=1), found.max(axis=1), found.min(axis=1)], axis=1)[:, None]


def draw_frames(data: EpisodeDataModule, part: Part, *, count: int, seed: int = 0) -> KnownFrames:
    """Draw ``count`` frames, or all if there are fewer, from the episodes of ``part``.

    Quantities are the entries of ``state`` by the environment's names, its angles as sine and cosine; of data without
    ``state`` those of ``proprio``, or else the row in the episode.
    """
    source = data.source
    episodes = data.parts[part]
    steps = np.concatenate([np.arange(source.lengths[episode]) for episode in episodes])
    rows = np.repeat(source.offsets[episodes], source.lengths[episodes]) + steps
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), min(count, len(rows)), replace=False))
    columns = {name: source.read(name, rows[chosen]) for name in _READ if name in source.columns}
    if "state" in columns:
        state = columns["state"]
        values, names = quantities(state, data.state_names or _numbered("state", state), data.angle_names)
    elif "proprio" in columns:
        values, names = columns["proprio"], _numbered("proprio", columns["proprio"])
    else:
        values, names = steps[chosen, None].astype(np.float32), ("row",)
    return KnownFrames(columns=columns, values=values, names=names)


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


def _numbered(name: str, values: Array) -> tuple[str, ...]:
    return tuple(f"{name}_{index}" for index in range(values.shape[1]))
