"""Two-Room data: generated here unless a data set is given."""

from __future__ import annotations

from jepakit.datamodules.base import EpisodeDataModule


class TwoRoom(EpisodeDataModule):
    """Episodes of ``jepakit/TwoRoom-v0`` collected by ``TwoRoomExplorer``."""

    env = "jepakit.envs.tworoom:TwoRoom"
    policy = "jepakit.envs.tworoom:TwoRoomExplorer"
    expert = "jepakit.envs.tworoom:TwoRoomExpert"
