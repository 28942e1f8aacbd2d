"""What ``lightning predict`` leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from jepakit.callbacks.folder import run_folder

FILE = "predictions"


class WritePredictions(BasePredictionWriter):
    """Writes what ``predict_step`` returns of all windows, as tensors by name, into ``predictions.safetensors``.

    In the run's folder; with several processes every one writes its share, ``predictions-RANK.safetensors``.
    """

    def __init__(self) -> None:
        super().__init__("epoch")

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Put the batches together and write them."""
        from safetensors.torch import save_file

        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        share = "" if trainer.world_size == 1 else f"-{trainer.global_rank}"
        file = folder / f"{FILE}{share}.safetensors"
        save_file({name: torch.cat([batch[name].cpu() for batch in predictions]) for name in predictions[0]}, file)
        print(f"wrote {file}")
