"""What shows that latents have collapsed, read from training batches, and an alarm.

Shape letters: B windows, T frames, N latent tokens per frame, D latent width, M rows, P directions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from jepakit.zoo.base import WorldModel
from jepakit.zoo.cjepa.model import CJEPAModel
from jepakit.zoo.frozen import FrozenEncoderModel
from jepakit.zoo.losses.sigreg import random_directions, sigreg
from jepakit.zoo.module import WorldModelModule
from jepakit.zoo.trainable import step_generator
from jepakit.zoo.vjepa.model import VJEPAModel

ROWS, DIRECTIONS = 512, 64  # at most, and as many
SAME = 1e-3  # of the latents' root mean square: a standard deviation below it is none


class LatentMonitor(L.Callback):
    """Measures the latents of the first training step and of every ``every_n_steps``-th for the run's loggers.

    It reads what the step returned: nothing is encoded again, and neither gradients nor random numbers are touched.
    Only the first process measures, its own batch. ``NAME/…`` are the names in the loggers.
    """

    name: ClassVar[str]

    def __init__(self, every_n_steps: int = 20) -> None:
        if every_n_steps < 1:
            raise ValueError(f"{type(self).__name__}.every_n_steps: found {every_n_steps}, expected at least 1")
        self.every_n_steps = every_n_steps
        self._measured = 0

    @abstractmethod
    def measure(self, latents: Tensor, step: int) -> dict[str, float]:
        """Return what is to be logged of latents (B, T, N, D), by name; nothing for what cannot be measured."""

    def react(self, trainer: L.Trainer, model: WorldModel, values: dict[str, float]) -> None:
        """Act on what was measured; called on every process, with no values on all but the first."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start afresh; refuse modules without latents before training starts."""
        if not isinstance(pl_module, WorldModelModule):
            raise ValueError(
                f"{type(self).__name__}: found {type(pl_module).__name__}, expected a world model of jepakit; remove "
                "the callback"
            )
        self._measured = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 (Lightning's)
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Measure and log, once per optimiser step where gradients are accumulated."""
        step = trainer.global_step
        if step == self._measured or not outputs or (step != 1 and step % self.every_n_steps):
            return
        self._measured = step
        assert isinstance(pl_module, WorldModelModule)
        values = {}
        if trainer.is_global_zero:
            values = self.measure(outputs["outputs"]["latents"].detach(), step)
            for logger in trainer.loggers if values else []:
                logger.log_metrics({f"{self.name}/{key}": value for key, value in values.items()}, step=step)
        self.react(trainer, pl_module.model, values)


class CollapseMonitor(LatentMonitor):
    """Logs ``collapse/…``, see ``collapse_figures``, and warns once when the latents have collapsed.

    They have when, at two measurements in a row, all latents are the same; or ``std_mean`` is below ``smallest_std``
    and below half of the largest one measured in this run; or ``effective_rank`` is below a fifth of the largest one:
    training has taken the spread away, or all but a few directions of it.

    Measured on noise and TwoRoom at learning rates of 5e-5 to 1e-2. Over 200 steps the lowest ``std_mean`` of healthy
    LeWM and PLDM (D = 8) was 0.134; without a regulariser it was below 0.1 after 100 steps at 1e-2, mostly after 60.
    V-JEPA begins at 0.07 to 0.09 and stays there. The nano LeWM (D = 64, 2e-3) without a regulariser lost its spread in
    one run; in another it kept it, but its rank fell from 24 to 3; with the regulariser, to 10. The lowest rank seen in
    a healthy run was 0.43 of its first. At 1e-3 and less, a collapse mostly took more than 100 steps.

    With ``stop`` the alarm also ends the training, on all processes.

    There is no alarm while the encoder that makes the latents does not learn: DINO-WM, V-JEPA after its first phase,
    C-JEPA on slots that are given or trained already. Its latents cannot collapse any more, and those of few states may
    rightly be narrow; the figures are logged all the same.
    """

    name: ClassVar[str] = "collapse"

    def __init__(self, every_n_steps: int = 20, smallest_std: float = 0.1, stop: bool = False) -> None:
        super().__init__(every_n_steps)
        if smallest_std <= 0.0:
            raise ValueError(f"CollapseMonitor.smallest_std: found {smallest_std}, expected above 0")
        self.smallest_std = smallest_std
        self.stop = stop
        self._begin()

    def _begin(self) -> None:
        self._largest, self._largest_rank, self._suspected, self._alarmed = 0.0, 0.0, False, False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See ``LatentMonitor``; what a checkpoint knows is restored after this."""
        super().setup(trainer, pl_module, stage)
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know to judge as one that never stopped."""
        return {
            "largest": self._largest,
            "largest_rank": self._largest_rank,
            "suspected": self._suspected,
            "alarmed": self._alarmed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See ``state_dict``."""
        self._largest, self._largest_rank = state_dict["largest"], state_dict["largest_rank"]
        self._suspected, self._alarmed = state_dict["suspected"], state_dict["alarmed"]

    def measure(self, latents: Tensor, step: int) -> dict[str, float]:
        """See ``collapse_figures``."""
        return collapse_figures(latents, step)

    def react(self, trainer: L.Trainer, model: WorldModel, values: dict[str, float]) -> None:
        """Judge, warn, stop."""
        if not encoder_learns(model):
            return
        alarm = bool(values) and self._collapsed(values)
        if alarm and not self._alarmed:
            self._alarmed = True
            rank_zero_warn(self._message(values, trainer.global_step))
        if self.stop and trainer.strategy.broadcast(alarm):
            trainer.should_stop = True

    def _collapsed(self, values: dict[str, float]) -> bool:
        """Whether this measurement and the one before it show a collapse; numbers that are not finite do not."""
        std, rank = values["std_mean"], values["effective_rank"]
        if math.isfinite(std):
            self._largest, self._largest_rank = max(self._largest, std), max(self._largest_rank, rank)
        narrow = std < self.smallest_std and std < 0.5 * self._largest
        before, self._suspected = self._suspected, narrow or rank == 0.0 or rank < 0.2 * self._largest_rank
        return before and self._suspected

    def _message(self, values: dict[str, float], step: int) -> str:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        return (
            f"step {step}: the latents have collapsed, all frames get nearly the same, or differ in few directions "
            f"({figures}; the largest std_mean was {self._largest:.3g}, effective_rank {self._largest_rank:.3g}). "
            "Check that the frames differ and show what they should, raise the weight of "
            "the model's regulariser (lambda_ of LeWM, variance_weight of PLDM), or lower optimizer.lr"
            + ("; training stops" if self.stop else "")
        )


def encoder_learns(model: WorldModel) -> bool:
    """Whether the encoder behind a model's latents is being trained in the phase the model is in."""
    if isinstance(model, VJEPAModel):
        return not model.encoder_done
    if isinstance(model, CJEPAModel):
        return not model.objects.trained
    return not isinstance(model, FrozenEncoderModel)


@torch.no_grad()
def collapse_figures(latents: Tensor, step: int) -> dict[str, float]:
    """How far latents (B, T, N, D) are from being all the same, or all on a line.

    Every token loses its mean over the frames, so that tokens that differ only by their place count as the same; of
    the M = B · T · N rows at most 512 are drawn, anew for every ``step``. On these, centred, (M, D):

    - ``effective_rank``: exp(−Σ p log p), p = σ / Σ σ of the singular values σ (RankMe, arXiv 2210.02885), from 1 to
      D; 0 where all latents are the same
    - ``std_mean``, ``std_min``: of the standard deviations per dimension
    - ``correlation``: root mean square of the correlations between different dimensions that vary
    - ``gaussianity``: the Epps–Pulley statistic of ``sigreg``, averaged over 64 random directions. Every slice is
      standardised first, so that this is about shape alone; about 0.3 for a normal, more for anything else and with
      more rows.

    What cannot be computed is nan, everything where latents are not finite.
    """
    z, scale = _rows(latents, step)
    nothing = dict.fromkeys(("effective_rank", "std_mean", "std_min", "correlation", "gaussianity"), math.nan)
    if not z.isfinite().all():
        return nothing
    std = z.std(dim=0, correction=0)
    spread = {"std_mean": std.mean().item(), "std_min": std.min().item()}
    varies = std > SAME * scale
    if not varies.any():
        return {**nothing, "effective_rank": 0.0, **spread}
    return {
        "effective_rank": _effective_rank(z),
        **spread,
        "correlation": _correlation(z[:, varies] / std[varies]),
        "gaussianity": _gaussianity(z, step),
    }


def _rows(latents: Tensor, step: int) -> tuple[Tensor, float]:
    """Centred rows (M, D) on the CPU in float64, and the root mean square of what they were."""
    tokens = latents.shape[2]
    means = latents.mean(dim=(0, 1), dtype=torch.float32)
    rows = latents.flatten(0, 2)
    drawn = torch.randperm(len(rows), generator=step_generator(0, step))[:ROWS].to(latents.device)
    z = rows[drawn].float()
    scale = z.square().mean().sqrt().item()
    z = (z - means[drawn % tokens]).cpu().double()
    return z - z.mean(dim=0), scale


def _effective_rank(z: Tensor) -> float:
    singular = torch.linalg.svdvals(z)
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def _correlation(standardised: Tensor) -> float:
    rows, width = standardised.shape
    matrix = standardised.T @ standardised / rows
    if width < 2:
        return math.nan
    return math.sqrt((matrix.square().sum() - matrix.diagonal().square().sum()).item() / (width * (width - 1)))


def _gaussianity(z: Tensor, step: int) -> float:
    directions = random_directions(z.shape[1], DIRECTIONS, seed=0, step=step, device=z.device)
    slices = z @ directions.double()
    slices = slices / slices.std(dim=0, correction=0)
    return sigreg(slices.unsqueeze(1), torch.eye(DIRECTIONS)).item()
