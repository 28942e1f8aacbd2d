"""Pictures and videos for the run's loggers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger


@runtime_checkable
class MediaLogger(Protocol):
    """A logger that takes files by name, such as ``WandbLogger`` and ``jepakit.loggers.TrackioLogger``."""

    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """Log pictures."""

    def log_video(self, key: str, videos: list[str], step: int | None = None) -> None:
        """Log videos."""


def log_media(loggers: Iterable[Logger], files: Iterable[Path], *, step: int) -> None:
    """Hand ``NAME.png`` as ``picture/NAME`` and ``NAME.mp4`` as ``video/NAME`` to the loggers that can show them.

    TensorBoard takes the pictures alone, ``CSVLogger`` and others neither; other files are left out.
    """
    files = list(files)
    for logger in loggers:
        for file in files:
            if file.suffix == ".png" and isinstance(logger, TensorBoardLogger):
                from PIL import Image

                with Image.open(file) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                logger.experiment.add_image(f"picture/{file.stem}", pixels, step, dataformats="HWC")
            elif file.suffix == ".png" and isinstance(logger, MediaLogger):
                logger.log_image(f"picture/{file.stem}", [str(file)], step=step)
            elif file.suffix == ".mp4" and isinstance(logger, MediaLogger):
                logger.log_video(f"video/{file.stem}", [str(file)], step=step)
