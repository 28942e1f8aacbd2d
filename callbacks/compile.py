"""Compiled training."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch


class Compile(L.Callback):
    """Computes losses with ``torch.compile`` during ``fit``.

    The first steps take from seconds to minutes, and sums may be taken in another order; random draws stay what they
    are except dropout's. Whether it is faster is for a measurement to say: on a CPU it is not
    (docs/results/training.md).

    Args:
        mode: of ``torch.compile``, such as ``max-autotune``.
        backend: of ``torch.compile``.

    """

    def __init__(self, mode: str | None = None, backend: str = "inductor") -> None:
        self.mode, self.backend = mode, backend

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the compiled losses before the model's own."""
        model: Any = pl_module.model
        model.losses = torch.compile(model.losses, mode=self.mode, backend=self.backend)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take them away."""
        vars(pl_module.model).pop("losses")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Also when training failed."""
        vars(pl_module.model).pop("losses", None)
