"""Data: episode stores, collection, windows and the LightningDataModules that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.datamodules.base import EpisodeDataModule as EpisodeDataModule
    from jepakit.datamodules.base import Generate as Generate
    from jepakit.datamodules.collisions import Collisions as Collisions
    from jepakit.datamodules.cube import Cube as Cube
    from jepakit.datamodules.gravity import Gravity as Gravity
    from jepakit.datamodules.mixture import Mixture as Mixture
    from jepakit.datamodules.mixture import MixturePart as MixturePart
    from jepakit.datamodules.pusht import PushT as PushT
    from jepakit.datamodules.reacher import Reacher as Reacher
    from jepakit.datamodules.tworoom import TwoRoom as TwoRoom

__getattr__, __dir__ = lazy(
    __name__,
    {
        "base": ("EpisodeDataModule", "Generate"),
        "collisions": ("Collisions",),
        "cube": ("Cube",),
        "gravity": ("Gravity",),
        "mixture": ("Mixture", "MixturePart"),
        "pusht": ("PushT",),
        "reacher": ("Reacher",),
        "tworoom": ("TwoRoom",),
    },
)
__all__ = __dir__()
