"""End a training so that it can go on where it stopped."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from jepakit.callbacks.folder import run_folder
from jepakit.callbacks.numerical_guard import NumericalFault

STOPPED = "stopped.ckpt"


class GracefulStop(L.Callback):
    """Ctrl-C or SIGTERM ends the training after the step it is in, or the one after a validation; exit code 130 or 143.

    A second Ctrl-C ends it at once. However a training ends before its time, also by an error between two steps, its
    state is saved as ``stopped.ckpt`` beside the other checkpoints. An end in the middle of a step or of a validation,
    from which a training cannot go on exactly, leaves the checkpoints that are there. Several processes stop after the
    same step; an error in one of them saves nothing, because the others may be elsewhere.
    """

    def __init__(self) -> None:
        self._asked = 0  # the signal
        self._agreed = False
        self._over = False
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen; when a fit is interrupted, Lightning puts the handlers from before back."""
        self._asked, self._agreed, self._over = 0, False, False
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nStopping after this step; Ctrl-C stops at once, without saving.\n")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 (Lightning's)
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Stop here if any process was asked to."""
        if trainer.strategy.reduce_boolean_decision(bool(self._asked), all=False):
            self._agreed = True
            raise SIGTERMException(128 + self._asked) if self._asked == signal.SIGTERM else KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the state, unless it is that of half a step, or the training is over and what follows it failed."""
        if self._over or not self._can_save(trainer, self._agreed or isinstance(exception, NumericalFault)):
            return
        file = checkpoint_folder(trainer) / STOPPED
        trainer.save_checkpoint(file)
        if trainer.is_global_zero:
            Console(stderr=True, soft_wrap=True).print(
                f"Stopped after step {trainer.global_step}, saved in {file}. The same command with --ckpt_path last "
                "goes on from there."
            )

    def _can_save(self, trainer: L.Trainer, together: bool) -> bool:
        if getattr(trainer, "fast_dev_run", False) or trainer.global_step == 0 or not trainer.training:
            return False
        if not trainer.checkpoint_callbacks or (trainer.world_size > 1 and not together):
            return False
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # Lightning types its base class only
        at_once = self._asked and not together  # the second Ctrl-C, which comes anywhere
        return done.ready == done.processed and not at_once

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen no more, and remove what an earlier part of this training saved: it is over."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers, self._over = {}, True
        folder = checkpoint_folder(trainer)
        if trainer.is_global_zero:
            (folder / STOPPED).unlink(missing_ok=True)


def checkpoint_folder(trainer: L.Trainer) -> Path:
    """Where a run's checkpoints are."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
        return Path(callback.dirpath)
    return run_folder(trainer) / "checkpoints"
