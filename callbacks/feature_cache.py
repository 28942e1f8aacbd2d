"""Run a frozen network once per frame of a data set instead of once per frame and epoch.

Shape letters: M pictures, N tokens per frame, E token width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.progress import progress_bar
from jepakit.datamodules.store import (
    MANIFEST,
    Array,
    Column,
    EpisodeSource,
    EpisodeStore,
    EpisodeWriter,
    fingerprint_of,
)
from jepakit.zoo.frozen_features import FrozenFeatures, ReadsFrozenFeatures


class FeatureCache(L.Callback):
    """Before training, store what a frozen network makes of every frame; batches then bring ``features``, not pixels.

    That is the encoder's tokens for DINO-WM, the world model's latents for a controller or a distance. The store lies
    in ``folder`` under a name made of the network's weights, the data's fingerprint and the sizes: the same training
    uses it again, another encoder or data set makes another. Finished shards of an interrupted run are kept. Features
    that the data module was given are left as they are, and a ``fast_dev_run`` computes its few frames by itself. With
    several nodes, ``folder`` must be one that all of them see.

    Disk: ``N · E · 2`` bytes per frame in float16. DINOv2-small with 196 tokens takes 151 kB, as much as the raw
    224-pixel frame itself (9.4 GB for 500 episodes of 125 steps), with 256 tokens 197 kB; the nano size (16 × 96) 3 kB,
    a quarter of its 64-pixel frame. float16 rounds every number by at most 1/2048 of itself, which adds about 1e-7 of
    the tokens' mean square to the loss; float32 takes twice the space.
    """

    def __init__(
        self, folder: str = "features", dtype: Literal["float16", "float32"] = "float16", batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"FeatureCache.batch_size: found {batch_size}, expected at least 1 frame")
        self.folder = Path(folder)
        self.dtype = dtype
        self.batch_size = batch_size

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compute what is missing; the data module is set up already, its loaders are not made yet."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        if isinstance(data, EpisodeDataModule) and self._given(data):
            return
        if not isinstance(pl_module, ReadsFrozenFeatures) or not isinstance(data, EpisodeDataModule):
            raise ValueError(
                f"FeatureCache: found {type(pl_module).__name__} and {type(data).__name__}, expected a "
                "module that reads features of a frozen network (DINOWM, Controller, Distance) and a data module of "
                "jepakit; remove the callback"
            )
        features = pl_module.frozen_features(data)
        settings = {**features.identity, "data": data.source.fingerprint, "dtype": self.dtype}
        path = self.folder / f"{features.name}-{fingerprint_of(settings)[:16]}"
        if trainer.is_global_zero:
            features.network.to(trainer.strategy.root_device)
            with progress_bar("encoding frames") as report:
                write_features(features, data.source, path, settings, batch_size=self.batch_size, progress=report)
        trainer.strategy.barrier("feature cache")
        data.use_features(str(path))

    def _given(self, data: EpisodeDataModule) -> bool:
        """Whether the user, and not an earlier training, chose the features."""
        return data.features is not None and Path(data.features).parent != self.folder


def write_features(
    features: FrozenFeatures,
    source: EpisodeSource,
    path: Path,
    settings: dict[str, object],
    *,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write the store of ``features`` (N, E) at ``path``, one row per frame of ``source``; finish one that is not.

    ``progress(done, total)`` counts episodes. Raises ``ValueError`` for features that the dtype in ``settings`` cannot
    hold.
    """
    if (path / MANIFEST).exists() and EpisodeStore(path).complete:
        return
    dtype = np.dtype(str(settings["dtype"]))
    column = Column(dtype=dtype.name, shape=features.shape)
    episodes = len(source.lengths)
    with EpisodeWriter(path, {"features": column}, settings=settings, fingerprint=fingerprint_of(settings)) as writer:
        for episode in range(writer.committed, episodes):
            rows = source.offsets[episode] + np.arange(source.lengths[episode])
            batches = np.split(rows, range(batch_size, len(rows), batch_size))
            found = np.concatenate([_compute(features, source, some) for some in batches])
            if np.abs(found).max(initial=0.0) > np.finfo(dtype).max:
                raise ValueError(f"features of episode {episode}: found numbers beyond {dtype}; use dtype 'float32'")
            writer.append({"features": found.astype(dtype)})
            progress(episode + 1, episodes)


@torch.inference_mode()
def _compute(features: FrozenFeatures, source: EpisodeSource, rows: NDArray[np.int64]) -> Array:
    """Features (M, N, E) of frames, in float32."""
    device = next(features.network.buffers()).device
    observation = {name: torch.from_numpy(source.read(name, rows)).unsqueeze(0).to(device) for name in features.columns}
    found: Array = features.compute(observation).float().cpu().numpy()
    return found
