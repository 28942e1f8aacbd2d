"""Data of colliding objects: generated here unless a data set is given."""

from __future__ import annotations

from jepakit.datamodules.base import EpisodeDataModule


class Collisions(EpisodeDataModule):
    """Episodes of ``jepakit/Collisions-v0``, half of them left alone; with instance masks and a log of contacts."""

    env = "jepakit.envs.collisions:Collisions"
    policy = "jepakit.envs.scene_env:OccasionalPushes"
