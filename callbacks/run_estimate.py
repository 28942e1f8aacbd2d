"""Say how long a run will take before it has taken that long."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from jepakit.zoo.base import WorldModel
from jepakit.zoo.module import WorldModelModule
from jepakit.zoo.ranks import average

_FIRST_WINDOWS, _LONG_ENOUGH = 4, 1.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds per optimiser step of ``windows`` windows, and for all ``steps``."""

    steps: int
    windows: int
    seconds_per_step: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.steps * self.seconds_per_step


class RunEstimate(L.Callback):
    """Before the first step, estimate its duration from a few timed steps; warn when it exceeds ``warn_after_hours``.

    A copy of the model, not compiled, is trained on windows of the first batch, so that the run itself is not
    disturbed; see ``seconds_per_step``. A model that is sharded over processes cannot be copied: nothing is said then.
    ``smaller`` names the configuration to recommend.
    """

    def __init__(self, warn_after_hours: float = 1.0, smaller: str = "configs/size/nano.yaml") -> None:
        self.warn_after_hours = warn_after_hours
        self.smaller = smaller
        self.estimate: Estimate | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Before the first batch only: time, extrapolate, and print one line, or a warning if the run is long."""
        if self.estimate is not None or getattr(trainer, "fast_dev_run", False):
            return
        if not isinstance(pl_module, WorldModelModule) or pl_module.device_mesh is not None:
            return
        steps = trainer.estimated_stepping_batches - trainer.global_step
        if not math.isfinite(steps):
            return
        with torch.random.fork_rng(), trainer.precision_plugin.train_step_context():
            model = copy.deepcopy(pl_module.model)
            vars(model).pop("losses", None)  # compiled ones would be those of the original
            seconds = seconds_per_step(model, batch)
        self.estimate = Estimate(
            steps=int(steps),
            windows=len(batch["action"]),
            seconds_per_step=seconds * trainer.accumulate_grad_batches,
        )
        if trainer.is_global_zero:
            self._say(self.estimate, pl_module.model)

    def _say(self, estimate: Estimate, model: WorldModel) -> None:
        console = Console(stderr=True)
        what = f"{estimate.steps} steps of {estimate.windows} windows, about {estimate.seconds_per_step:.2g} s each"
        line = (
            f"This run will take about {readable(estimate.seconds)} on this machine ({what}, from a few timed steps)."
        )
        if estimate.seconds <= 3600 * self.warn_after_hours:
            console.print(line)
            return
        advice = f"For a smaller one add: -c {self.smaller}"
        if model.config.image_size <= 64:
            advice = "For a shorter one set --trainer.max_steps, or use a machine with a GPU."
        console.print(f"[bold yellow]{line} {advice}[/]")


def seconds_per_step(model: WorldModel, batch: dict[str, Tensor]) -> float:
    """Seconds of one forward and backward pass over the whole ``batch``.

    Few windows are timed first; their number doubles until a pass takes a second or the batch is used up. What is
    left is extrapolated in proportion. Times are means over the processes that share a batch, which compute parts of a
    pass together, so that all of them must make the same passes.
    """
    device, full = batch["action"].device, len(batch["action"])
    windows = min(_FIRST_WINDOWS, full)
    _timed(model, batch, windows)  # warm-up
    while True:
        own = min(_timed(model, batch, windows), _timed(model, batch, windows))
        seconds = average(torch.tensor(own, device=device)).item()
        if seconds > _LONG_ENOUGH or windows == full:
            return seconds * full / windows
        windows = min(2 * windows, full)


def _timed(model: WorldModel, batch: dict[str, Tensor], windows: int) -> float:
    started = time.perf_counter()
    losses = model.losses({name: value[:windows] for name, value in batch.items()})
    torch.autograd.backward(losses.total)
    if losses.total.is_cuda:
        torch.cuda.synchronize(losses.total.device)
    return time.perf_counter() - started


def readable(seconds: float) -> str:
    """A duration as people say it: ``40 seconds``, ``12 minutes``, ``3.5 hours``, ``46 days``."""
    for limit, unit, size in ((90.0, "seconds", 1.0), (5400.0, "minutes", 60.0), (172800.0, "hours", 3600.0)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.0f} days"
