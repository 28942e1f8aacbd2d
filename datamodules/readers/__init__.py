"""Readers of everybody's data: HDF5, Lance, DINO-WM's folder, LeRobot v3 and the store, local or behind a URL."""

from jepakit.datamodules.readers.base import BadEpisode, Reader
from jepakit.datamodules.readers.registry import READERS, detect, open_source

__all__ = ["READERS", "BadEpisode", "Reader", "detect", "open_source"]
