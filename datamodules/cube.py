"""Cube data: generated here unless a data set is given; needs the extra ``mujoco``."""

from __future__ import annotations

from jepakit.datamodules.base import EpisodeDataModule


class Cube(EpisodeDataModule):
    """Episodes of ``jepakit/Cube-v0`` collected by ``CubeExplorer``."""

    env = "jepakit.envs.cube:Cube"
    policy = "jepakit.envs.cube_policies:CubeExplorer"
    expert = "jepakit.envs.cube_policies:CubeExpert"
