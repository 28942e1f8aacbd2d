"""Data of falling objects: generated here unless a data set is given."""

from __future__ import annotations

from jepakit.datamodules.base import EpisodeDataModule


class Gravity(EpisodeDataModule):
    """Episodes of ``jepakit/Gravity-v0``, half of them left alone; with instance masks and a log of contacts."""

    env = "jepakit.envs.gravity:Gravity"
    policy = "jepakit.envs.scene_env:OccasionalPushes"
