"""Numerical faults in training: found in the step they arise in, undone, named; then the run stops or goes on."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepakit.zoo.module import TrainingModule
from jepakit.zoo.ranks import whole

FIRST_STEPS = 20  # of a phase, whose losses are the measure of an explosion
_NAMED = 4  # windows in a message


class NumericalFault(FloatingPointError):
    """A loss or gradients that are not finite, or a loss that exploded."""


class NumericalGuard(L.Callback):
    """Undoes a step whose loss or gradients are not finite or whose loss explodes, and stops the run, or goes on.

    A loss explodes when it exceeds ``explosion`` times the largest of the first 20 steps of its phase. In 26 nano runs
    of all families no loss, logged every 50 steps, exceeded 50 times the largest of the first three. ``skip`` warns of
    every faulty step and counts them for the loggers, ``guard/skipped``; more than ``patience`` in a row stop the run
    all the same. An undone step moves no parameter and leaves the running statistics of batch norms alone; its batch
    counts as done. With fp16, whose gradients overflow as a matter of course, only losses are judged.

    Raises ``NumericalFault`` at the end of the step, when the run's state can be saved: see ``GracefulStop``.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop", explosion: float = 100.0, patience: int = 10) -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"NumericalGuard.action: found {action!r}, expected 'stop' or 'skip'")
        if not explosion > 1.0 or patience < 0:
            raise ValueError(
                f"NumericalGuard: found explosion {explosion} and patience {patience}, expected more than 1 and at "
                "least 0"
            )
        self.action = action
        self.explosion = explosion
        self.patience = patience
        self.skipped = 0
        self._in_a_row = 0
        self._phase = self._first = 0  # of the training, and steps of it that were judged, up to FIRST_STEPS
        self._largest = 0.0  # loss of those
        self._losses: list[Tensor] = []  # of the step's batches
        self._before: list[tuple[Tensor, Tensor]] = []  # running statistics and their values before the step
        self._fault = ""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Remember the running statistics, which the forward pass changes."""
        if not self._before:
            self._before = [(value, value.clone()) for value in _running_statistics(pl_module)]

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Take note of the loss."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step; undo it on all processes if it is faulty on one."""
        loss = torch.stack(self._losses).max()  # NaN if one of them is
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        scaled = isinstance(trainer.precision_plugin, MixedPrecision) and trainer.precision_plugin.scaler is not None
        norm = loss.new_zeros(()) if scaled else whole(nn.utils.get_total_norm(gradients)).to(loss.dtype)
        value, size = torch.stack([loss, norm]).tolist()  # one wait for the device
        self._enter_phase(pl_module)
        self._fault = self._judge(value * trainer.accumulate_grad_batches, size)
        if trainer.strategy.reduce_boolean_decision(bool(self._fault), all=False):
            self._fault = self._fault or "another process found a fault"
            for parameter in pl_module.parameters():
                parameter.grad = None
            for value, before in self._before:
                value.copy_(before)
        self._losses.clear()
        self._before.clear()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 (Lightning's)
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Between two steps: stop, or count."""
        if not self._fault:
            if not self._losses:  # otherwise more batches of this step will come
                self._in_a_row = 0
            return
        message = f"step {trainer.global_step}: {self._fault}; {_suspects(batch)}; the step was undone. "
        self._fault = ""
        self.skipped += 1
        self._in_a_row += 1
        if self.action == "stop" or self._in_a_row > self.patience:
            raise NumericalFault(
                message + "Look at the data with 'lightning data doctor', lower optimizer.lr or set "
                "trainer.gradient_clip_val; --guard.action skip goes on without such steps"
            )
        rank_zero_warn(f"{message}{self.skipped} skipped so far")
        for logger in trainer.loggers:
            logger.log_metrics({"guard/skipped": self.skipped}, step=trainer.global_step)

    def _enter_phase(self, module: L.LightningModule) -> None:
        """Losses of a model's two phases do not compare."""
        phase = int(isinstance(module, TrainingModule) and not module.model.encoder_alone)
        if phase != self._phase:
            self._phase, self._first, self._largest = phase, 0, 0.0

    def _judge(self, loss: float, norm: float) -> str:
        """What is wrong, or nothing."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the loss is {loss:.4g}, but the norm of its gradients is {norm}"
        if self._first < FIRST_STEPS:
            self._first += 1
            self._largest = max(self._largest, abs(loss))
        elif loss > self.explosion * self._largest:
            first = f"that of the first steps ({self._largest:.4g})"
            return f"the loss is {loss:.4g}, more than {self.explosion:g} times {first}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know to judge as if never stopped."""
        names = ("skipped", "_in_a_row", "_phase", "_first", "_largest")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        for name, value in state_dict.items():
            setattr(self, name, value)


def _running_statistics(module: nn.Module) -> list[Tensor]:
    """Buffers that a forward pass in train mode changes."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def _suspects(batch: dict[str, Tensor]) -> str:
    """The windows that hold numbers that are not finite, by column; if there are none, the batch's first."""
    floats = {name: value for name, value in batch.items() if value.is_floating_point()}
    bad = {name: ~value.flatten(1).isfinite().all(dim=1) for name, value in floats.items()}
    named = [f"NaN or infinity in {name!r} of {_windows(batch, rows)}" for name, rows in bad.items() if rows.any()]
    return "; ".join(named) or f"its data are finite, they were {_windows(batch, torch.ones(_size(batch)) > 0)}"


def _windows(batch: dict[str, Tensor], rows: Tensor) -> str:
    indices = rows.nonzero().flatten().tolist()
    if not {"episode", "start"} <= batch.keys():
        return f"rows {indices[:_NAMED]} of {_size(batch)}"
    shown = [f"episode {int(batch['episode'][row])} from step {int(batch['start'][row])}" for row in indices[:_NAMED]]
    more = len(indices) - len(shown)
    return ", ".join(shown) + (f" and {more} more windows" if more else "")


def _size(batch: dict[str, Tensor]) -> int:
    return len(next(iter(batch.values())))
