"""What every probe shares: it measures a frozen model on held-out data, during training and on saved weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import lightning as L

from jepakit.callbacks.folder import run_folder
from jepakit.callbacks.media import log_media
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import environment_factory
from jepakit.planning.evaluation.files import write_json
from jepakit.results import read_probe
from jepakit.zoo.base import WorldModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.module import WorldModelModule


class Probe(L.Callback):
    """Measures after every ``every_n_epochs`` epochs (0: only at the end) and at the end of a fit.

    Numbers go to the run's loggers as ``probe/NAME/…`` and into ``probes/NAME.json`` in its folder, with the
    fingerprint of the weights; pictures lie beside that file and go to the loggers that show any. ``lightning probe``
    does the same on saved weights, without a logger. The model is in evaluation mode meanwhile; neither its weights nor
    its gradients are touched. Only the first process measures; after an epoch it tells the others what it found, so
    that a checkpoint or early stopping decides the same on all of them.
    """

    name: ClassVar[str]
    in_environment: ClassVar[bool] = False  # whether it needs the one that belongs to the data

    def __init__(self, every_n_epochs: int = 0) -> None:
        self.require(least=0, every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self._measured_at: int | None = None

    def require(self, *, least: int, **settings: int) -> None:
        """Raise ``ValueError`` naming the setting that is below ``least``."""
        for name, value in settings.items():
            if value < least:
                raise ValueError(f"{type(self).__name__}.{name}: found {value}, expected at least {least}")

    def check(self, model: WorldModel) -> None:
        """Raise ``ValueError`` for a model that cannot be probed; any can, unless a probe says otherwise."""

    def check_data(self, data: EpisodeDataModule) -> None:
        """Raise ``ValueError`` for data, set up or not, that the probe cannot use."""
        if self.in_environment:
            environment_factory(data)

    @abstractmethod
    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """Return what was found by name; ``data`` are set up, ``folder`` exists and takes pictures."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse models and data that cannot be probed, before training starts."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, WorldModelModule) or not isinstance(data, EpisodeDataModule):
            raise ValueError(
                f"{type(self).__name__}: found {type(pl_module).__name__} and {type(data).__name__}, expected a world "
                "model and a data module of jepakit; remove the callback"
            )
        pl_module.require_whole(type(self).__name__)
        self.check(pl_module.model)
        self.check_data(data)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure every ``every_n_epochs`` epochs."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            found = trainer.strategy.broadcast(self._probe(trainer, pl_module))
            for name, value in found.items():
                pl_module.log(name, value, logger=False, sync_dist=True)  # for callbacks that watch a number

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the final state, unless the last epoch's end just did."""
        if not getattr(trainer, "fast_dev_run", False) and self._measured_at != trainer.global_step:
            self._probe(trainer, pl_module)

    def run(
        self, model: WorldModel, data: EpisodeDataModule, folder: Path, *, step: int, keep_later: bool = True
    ) -> dict[str, float]:
        """Measure, and keep the numbers in ``folder`` beside those of other steps.

        Without ``keep_later`` those of later steps go: a training that was resumed measures them again.
        """
        self.check(model)
        self.check_data(data)
        folder.mkdir(parents=True, exist_ok=True)
        was_training = model.training
        values = self.measure(model.eval(), data, folder)
        model.train(was_training)
        file = folder / f"{self.name}.json"
        earlier = read_probe(file) if file.is_file() else []
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        measured = [entry for entry in earlier if entry["step"] < step or (keep_later and entry["step"] > step)]
        measured.append({"step": step, "weights": fingerprint(model), "values": plain})
        write_json(file, {"measured": sorted(measured, key=lambda entry: entry["step"])})
        return values

    def _probe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        """Measure, log, and return the numbers by their logged names; nothing but on the first process."""
        folder = run_folder(trainer) / "probes"
        self._measured_at = trainer.global_step
        if not trainer.is_global_zero:
            return {}
        assert isinstance(pl_module, WorldModelModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        values = self.run(pl_module.model, data, folder, step=trainer.global_step, keep_later=False)
        named = {f"probe/{self.name}/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        own = [file for file in sorted(folder.iterdir()) if f"{file.stem}_".startswith(f"{self.name}_")]
        log_media(trainer.loggers, own, step=trainer.global_step)
        return named
