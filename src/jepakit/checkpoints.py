"""Training checkpoints that a killed process cannot spoil, the one to go on from, and the curves before it."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.loggers import CSVLogger

FOLDER = "checkpoints"  # of a run's folder, by Lightning's custom
LAST = "last"  # in place of a checkpoint's path: that of the newest run
_PARTIAL = ".partial-"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there in one step, so that it is whole or not there.

    Lightning writes to the system's temporary folder first; on another file system the move from there is a copy, which
    a kill can cut short. Leftovers of killed writers go when the next checkpoint is written. Other than local paths are
    left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write ``checkpoint`` to ``path``; raises ``OSError`` naming it when that cannot be done."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            for leftover in file.parent.glob(f"{_PARTIAL}*"):
                leftover.unlink(missing_ok=True)
            _write(checkpoint, file)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{file}: the checkpoint cannot be written ({error.strerror or error}); what was there before is "
                "untouched: make room or another checkpoint.dirpath, then go on with --ckpt_path last",
            ) from error


def _write(checkpoint: dict[str, Any], file: Path) -> None:
    content = io.BytesIO()  # writing from here, a full disk is an OSError
    torch.save(checkpoint, content)
    descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content.getbuffer())
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, file)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder; warns of newer ones that are cut short."""
    for file in sorted(folder.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        if zipfile.is_zipfile(file):  # its directory is the end of the file
            return file
        warnings.warn(f"{file}: not a whole checkpoint, passed over for an older one; delete it", stacklevel=2)
    return None


def newest_run(runs: Path) -> int | None:
    """Return the number N of the newest ``version_N`` in a folder of runs that has a checkpoint to go on from."""
    for number in sorted(_versions(runs.glob("version_*")), reverse=True):
        if newest_checkpoint(runs / f"version_{number}" / FOLDER) is not None:
            return number
    return None


class KeepCurves(L.Callback):
    """Keeps what was logged when a run goes on: writes it out with every checkpoint, and keeps ``metrics.csv``.

    ``CSVLogger`` deletes that file where it finds one. Its rows from before the checkpoint are logged again; those
    after it are measured again. Only those of the very step of the checkpoint, which Lightning logs after it, are lost.
    """

    def __init__(self, loggers: Iterable[object]) -> None:
        self._rows: list[tuple[CSVLogger, list[dict[str, str]]]] = []
        for logger in loggers:
            if isinstance(logger, CSVLogger) and (file := Path(logger.log_dir) / "metrics.csv").is_file():
                with file.open(newline="") as lines:
                    self._rows.append((logger, list(csv.DictReader(lines))))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what was logged before the checkpoint; nothing in a new run."""
        for logger, rows in self._rows:
            for row in rows:
                step = int(row["step"])
                if step < trainer.global_step:
                    values: dict[str, torch.Tensor | float] = {
                        name: float(value) for name, value in row.items() if value and name != "step"
                    }
                    logger.log_metrics(values, step=step)
        self._rows = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write out what is logged so far."""
        for logger in trainer.loggers:
            logger.save()


def _versions(folders: Iterable[Path]) -> list[int]:
    numbers = (folder.name.removeprefix("version_") for folder in folders)
    return [int(number) for number in numbers if number.isdecimal()]
