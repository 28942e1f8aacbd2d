"""A picture of the latent space: its two main directions, coloured by what is known of the frames."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from jepakit.zoo.base import WorldModel
from jepakit.zoo.module import WorldModelModule

Array = NDArray[np.float64]


class LatentMap(L.Callback):
    """After training, plot the first two principal components of validation latents, one panel per state entry.

    Data without ``state`` have panels for ``proprio``, or else one for the frame's place in its window. Entries that
    are constant say nothing; of the others the first ``max_panels`` are drawn. Writes
    ``pictures/latent_map.png`` into the run's folder. The model is only asked to ``encode``.
    """

    def __init__(self, max_windows: int = 512, max_panels: int = 8) -> None:
        self.max_windows = max_windows
        self.max_panels = max_panels

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Encode, project, draw."""
        loaders = trainer.val_dataloaders
        if not trainer.is_global_zero or not isinstance(pl_module, WorldModelModule) or loaders is None:
            return
        latents, known, windows = [], [], 0
        for batch in loaders:
            latents.append(_encode(pl_module.model, batch))
            column, quantities = _quantities(batch)
            known.append(quantities.flatten(0, 1).numpy())
            windows += len(quantities)
            if windows >= self.max_windows:
                break
        names = _names(trainer, column, known[0].shape[1])
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        entries = np.concatenate(known)
        shown = np.flatnonzero(np.ptp(entries, axis=0))[: self.max_panels]
        draw_map(
            np.concatenate(latents), entries[:, shown], [names[index] for index in shown], folder / "latent_map.png"
        )


def principal_components(latents: Array, count: int = 2) -> tuple[Array, Array]:
    """Project latents ``(M, D)`` onto their main directions: ``(M, count)`` and the variance shares ``(count,)``."""
    centred = latents - latents.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    shares = singular**2 / (singular**2).sum()
    return centred @ directions[:count].T, shares[:count]


def draw_map(latents: Array, states: Array, names: list[str], file: Path) -> None:
    """Scatter the projected ``latents`` ``(M, D)``, coloured by each column of ``states`` ``(M, P)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, shares = principal_components(latents)
    figure = Figure(figsize=(4 * len(names), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for index, name in enumerate(names):
        axis = figure.add_subplot(1, len(names), index + 1)
        dots = axis.scatter(points[:, 0], points[:, 1], c=states[:, index], s=4, cmap="viridis", linewidths=0)
        figure.colorbar(dots, ax=axis)
        axis.set(title=name, xlabel=f"PC 1 ({shares[0]:.0%})", ylabel=f"PC 2 ({shares[1]:.0%})")
    figure.savefig(file, dpi=110)


def _encode(model: WorldModel, batch: dict[str, torch.Tensor]) -> Array:
    """Latents ``(B·T, N·D)`` of a batch, in evaluation mode; the training mode is restored."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        latents = model.encode({name: value.to(model.action_mean.device) for name, value in batch.items()})
    model.train(was_training)
    return latents.flatten(0, 1).flatten(1).double().cpu().numpy()


def _quantities(batch: dict[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    """What is known of every frame, (B, T, P), and where it is from."""
    for column in ("state", "proprio"):
        if column in batch:
            return column, batch[column]
    windows, frames = batch["pixels"].shape[:2]
    return "frame", torch.arange(frames).expand(windows, frames).unsqueeze(2)


def _names(trainer: L.Trainer, column: str, count: int) -> list[str]:
    names = getattr(getattr(trainer, "datamodule", None), "state_names", None)
    if column == "state" and names:
        return list(names)
    return [f"{column} {index}" for index in range(count)] if count > 1 else [column]
