"""A picture of the latent space, coloured by what is known of the frames.

Shape letters: F frames, N latent tokens per frame, D latent width, Q quantities.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jepakit.callbacks.frames import draw_frames
from jepakit.callbacks.probe import Probe
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.zoo.base import WorldModel

Array = NDArray[np.floating]


class LatentMap(Probe):
    """Latents of validation frames on two principal components, and by t-SNE, coloured by each quantity.

    Data without ``state`` are coloured by ``proprio``, or else by the row in the episode. Quantities that are constant
    say nothing; of the others the first ``max_panels`` are drawn. Reported: ``pc1`` and ``pc2``, the components' shares
    of the variance. t-SNE keeps neighbours together and nothing else: distances and sizes of its clusters mean nothing.
    """

    name: ClassVar[str] = "latent_map"

    def __init__(self, every_n_epochs: int = 0, frames: int = 500, max_panels: int = 8) -> None:
        super().__init__(every_n_epochs)
        self.require(least=4, frames=frames)
        self.require(least=1, max_panels=max_panels)
        self.frames = frames
        self.max_panels = max_panels

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``latent_map.png``."""
        known = draw_frames(data, "val", count=self.frames)
        latents = known.latents(model).reshape(len(known.values), -1).astype(np.float64)
        if not np.isfinite(latents).all():
            raise ValueError("LatentMap: found latents that are not finite, expected numbers: the model is broken")
        shown = np.flatnonzero(np.ptp(known.values, axis=0))[: self.max_panels]
        points, shares = principal_components(latents)
        titles = (f"PC 1 ({shares[0]:.0%})", f"PC 2 ({shares[1]:.0%})"), ("t-SNE 1", "t-SNE 2")
        names = [known.names[index] for index in shown]
        draw_map((points, neighbours(latents)), titles, known.values[:, shown], names, folder / "latent_map.png")
        return {"pc1": float(shares[0]), "pc2": float(shares[1])}


def principal_components(latents: Array, count: int = 2) -> tuple[Array, Array]:
    """Project latents ``(F, D)`` onto their main directions: ``(F, count)`` and the variance shares ``(count,)``."""
    centred = latents - latents.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    shares = singular**2 / max((singular**2).sum(), np.finfo(singular.dtype).tiny)
    return centred @ directions[:count].T, shares[:count]


def neighbours(latents: Array) -> Array:
    """Place latents ``(F, D)`` in the plane ``(F, 2)`` by t-SNE of their first 50 principal components.

    Latents that are all alike, of a model that has collapsed, are one point: t-SNE would divide by their deviation.
    """
    from sklearn.manifold import TSNE

    components, _ = principal_components(latents, min(50, *latents.shape))
    if not components[:, 0].std() > 0:
        return np.zeros((len(latents), 2))
    perplexity = min(30.0, (len(latents) - 1) / 3)
    placed: Array = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(components)
    return placed


def draw_map(
    maps: tuple[Array, ...], titles: tuple[tuple[str, str], ...], values: Array, names: list[str], file: Path
) -> None:
    """Scatter every map's points ``(F, 2)`` in a row of panels, coloured by each column of ``values`` ``(F, Q)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, len(names))
    figure = Figure(figsize=(4 * columns, 3.6 * len(maps)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (points, (x, y)) in enumerate(zip(maps, titles, strict=True)):
        for column, name in enumerate(names):
            axis = figure.add_subplot(len(maps), columns, row * columns + column + 1)
            dots = axis.scatter(points[:, 0], points[:, 1], c=values[:, column], s=4, cmap="viridis", linewidths=0)
            figure.colorbar(dots, ax=axis)
            axis.set(title=name, xlabel=x, ylabel=y)
    figure.savefig(file, dpi=110)
