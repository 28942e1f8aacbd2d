"""The episode store: complete episodes as columns, in shards that appear whole or not at all.

Layout of a store directory::

    manifest.json                    format, version, settings, fingerprint, columns, shards with hashes
    shard-00000/shard.json           this shard's episodes, rows, and size and SHA-256 of every file
    shard-00000/lengths.npy          steps per episode, (episodes,) int64
    shard-00000/<column>.npy         one row per step, (rows, …)
    shard-00000/<column>.bin         instead of it: frames encoded one by one, and
    shard-00000/<column>.index.npy   where each of them begins, (rows + 1,) int64

Row ``t`` holds the observation before action ``t``; the action leads to row ``t + 1``, and the last action of an
episode is NaN, as in the public data sets. Every ``.npy`` file opens with plain ``np.load``.
"""

from __future__ import annotations

from jepakit.datamodules.store.manifest import MANIFEST, fingerprint_of
from jepakit.datamodules.store.reader import Damage, EpisodeStore
from jepakit.datamodules.store.schema import Array, Codec, Column, EpisodeSource
from jepakit.datamodules.store.writer import EpisodeWriter, refuse_complete, write_manifest, write_shard

__all__ = [
    "MANIFEST",
    "Array",
    "Codec",
    "Column",
    "Damage",
    "EpisodeSource",
    "EpisodeStore",
    "EpisodeWriter",
    "fingerprint_of",
    "refuse_complete",
    "write_manifest",
    "write_shard",
]
