"""Reacher data: generated here unless a data set is given; needs the extra ``mujoco``."""

from __future__ import annotations

from jepakit.datamodules.base import EpisodeDataModule


class Reacher(EpisodeDataModule):
    """Episodes of ``jepakit/Reacher-v0`` collected by ``ReacherExplorer``."""

    env = "jepakit.envs.reacher:Reacher"
    policy = "jepakit.envs.reacher_policies:ReacherExplorer"
    expert = "jepakit.envs.reacher_policies:ReacherExpert"
