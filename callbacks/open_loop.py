"""How the error grows along an imagined path, block by block, from real frames of the validation episodes.

Shape letters: P windows or frames, K horizon in blocks, N latent tokens per frame, D latent width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from jepakit.callbacks.frames import AT_ONCE, encode_frames
from jepakit.callbacks.probe import Probe
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import draw_windows
from jepakit.datamodules.windows import WindowSpec
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.zoo.base import WorldModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float32]

OWN, OTHERS, STATIC = "own actions", "others' actions", "nothing moves"


class OpenLoopError(Probe):
    """Error of 1 … ``horizon`` imagined blocks, in the model's own distance, from single real frames.

    Reported per number of blocks: ``block_K/error`` and ``block_K/over_static``, the same over the error of a model in
    which nothing moves; from 1 on, imagining is worse than copying the last frame. ``open_loop.png`` shows both, and
    the error along another window's actions. Distances of different models are in different units.
    """

    name: ClassVar[str] = "open_loop"

    def __init__(self, every_n_epochs: int = 0, horizon: int = 5, windows: int = 256, seed: int = 0) -> None:
        super().__init__(every_n_epochs)
        self.require(least=1, horizon=horizon)
        self.require(least=2, windows=windows)
        self.horizon = horizon
        self.windows = windows
        self.seed = seed

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``open_loop.png``."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        backend = TorchBackend(model, environments_per_call=AT_ONCE)
        errors = open_loop_errors(backend, data, horizon=self.horizon, windows=self.windows, seed=self.seed)
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        draw_errors(figure.add_subplot(), errors)
        figure.savefig(folder / "open_loop.png", dpi=110)
        ratio = errors[OWN] / errors[STATIC]
        return {
            f"block_{block + 1}/{name}": float(values[block])
            for block in range(self.horizon)
            for name, values in (("error", errors[OWN]), ("over_static", ratio))
        }


def open_loop_errors(
    backend: TorchBackend, data: EpisodeDataModule, *, horizon: int, windows: int, seed: int
) -> dict[str, Array]:
    """Return the mean error (K,) after every block, along three kinds of actions."""
    spec = backend.spec
    window = WindowSpec(history=1, predictions=horizon, frame_skip=spec.frame_skip)
    batch = draw_windows(data, window, count=windows, seed=seed)
    frames, proprio = batch["pixels"], batch.get("proprio")
    count, length = frames.shape[:2]
    flat = None if proprio is None else proprio.reshape(-1, proprio.shape[-1])
    encoded = encode_frames(backend, frames.reshape(-1, *frames.shape[2:]), flat)
    latents = encoded.reshape(count, length, spec.tokens, spec.width)
    actions, start = batch["action"][:, None, :-1], latents[:, :1]
    past = np.empty((count, 0, spec.block_width), np.float32)
    ahead = {
        OWN: backend.imagine(start, past, actions)[:, 0],
        OTHERS: backend.imagine(start, past, np.roll(actions, 1, axis=0))[:, 0],
        STATIC: np.broadcast_to(start, latents[:, 1:].shape).copy(),
    }
    errors = {}
    for name, predicted in ahead.items():
        steps = [distances(backend.model, predicted[:, k], latents[:, 1 + k]) for k in range(horizon)]
        errors[name] = np.stack(steps).mean(axis=1)
    return errors


def distances(model: WorldModel, predicted: Array, real: Array) -> Array:
    """Return the model's own distance (P,) of latents (P, N, D) from others."""
    device = model.action_mean.device
    with torch.inference_mode():
        given, wanted = (torch.from_numpy(part).to(device) for part in (predicted, real))
        cost: Array = model.goal_cost(given.unsqueeze(1), wanted)[:, 0].float().cpu().numpy()
    return cost


def draw_errors(axis: Axes, errors: dict[str, Array]) -> None:
    """Draw errors (K,) by kind over the blocks."""
    for name, values in errors.items():
        axis.plot(np.arange(1, 1 + len(values)), values, marker="o", label=name)
    axis.set(title="open loop", xlabel="blocks ahead", ylabel="latent error", ylim=(0, None))
    axis.legend(fontsize=8)
