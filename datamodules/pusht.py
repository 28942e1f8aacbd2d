"""Push-T data: generated here unless a data set is given."""

from __future__ import annotations

from jepakit.datamodules.base import EpisodeDataModule


class PushT(EpisodeDataModule):
    """Episodes of ``jepakit/PushT-v0`` collected by ``PushTExplorer``."""

    env = "jepakit.envs.pusht:PushT"
    policy = "jepakit.envs.pusht_policies:PushTExplorer"
    expert = "jepakit.envs.pusht_policies:PushTExpert"
