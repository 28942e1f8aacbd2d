"""Publish a run's best weights when training ends."""

from __future__ import annotations

import copy

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from jepakit.callbacks.folder import run_folder
from jepakit.planning.evaluation.files import write_json
from jepakit.results import read_training
from jepakit.zoo.module import TrainingModule
from jepakit.zoo.publish import publish
from jepakit.zoo.weights import TRAINING_FILE, save_pretrained


class Publish(L.Callback):
    """After a fit, send the best checkpoint's weights to the Hub's ``repository`` (org/name), in one commit.

    The best is what a ``ModelCheckpoint`` with a ``monitor`` says; without one, the final weights are sent. They lie in
    ``published`` in the run's folder; what is beside it, ``evaluation`` and ``probes``, goes into the card. A commit
    that fails, or is refused because the predictor was never trained, leaves them there, and says so.
    """

    def __init__(
        self, repository: str, private: bool = True, revision: str | None = None, licence: str = "apache-2.0"
    ) -> None:
        self.repository = repository
        self.private = private
        self.revision = revision
        self.licence = licence

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a model that cannot be sent when training ends."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.require_whole("Publish")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and send."""
        folder = run_folder(trainer) / "published"
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        assert isinstance(pl_module, TrainingModule)
        model = copy.deepcopy(pl_module.model).cpu().eval()
        checkpoint, steps = trainer.checkpoint_callback, trainer.global_step
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.monitor and checkpoint.best_model_path:
            content = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
            steps = content["global_step"]
            prefix = "model."
            state = content["state_dict"].items()
            model.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state if name.startswith(prefix)}
            )
        save_pretrained(model, folder)
        record = run_folder(trainer) / "weights" / TRAINING_FILE
        if record.is_file():  # `lightning fit` has written it before
            write_json(folder / TRAINING_FILE, {**read_training(record), "steps": steps})
        try:
            found = publish(folder, self.repository, private=self.private, revision=self.revision, licence=self.licence)
        except Exception as error:
            raise RuntimeError(
                f"Publish: {self.repository} was not published ({error}); the weights are in {folder}: "
                f"lightning publish -c … --weights {folder} --repo {self.repository}"
            ) from error
        print(f"published {found.url}")
