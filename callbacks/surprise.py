"""Violation of expectation: whether a world model is more surprised where something impossible happens.

Shape letters: P clips, T frames, N latent tokens per frame, D latent width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score

from jepakit.callbacks.frames import AT_ONCE
from jepakit.callbacks.open_loop import distances
from jepakit.callbacks.probe import Probe
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import draw_windows, environment_factory
from jepakit.datamodules.windows import WindowSpec
from jepakit.zoo.base import WorldModel

Array = NDArray[np.float32]
Clips = dict[str, NDArray[Any]]


class SurpriseProbe(Probe):
    """Clips of test episodes, shown as they were and with a violation from one frame on.

    ``colour``: red, green and blue change places. ``teleport``: the agent is where it is in another clip, and does
    from there on what that one does. Surprise at a frame is the model's own distance of the frame from what the model
    expected, given up to ``history`` real frames before it and the actions. Reported for both, at the frame of the
    violation, in pairs of the same clip: ``KIND/auroc``, ``KIND/p`` of the paired t-test and ``KIND/ratio`` of the mean
    surprise. ``surprise.png`` shows the mean curves with their standard errors.

    A high score says that such a frame is far from the expected one, not that the model knows why.
    """

    name: ClassVar[str] = "surprise"
    in_environment: ClassVar[bool] = True

    def __init__(self, every_n_epochs: int = 0, clips: int = 64, after: int = 4, seed: int = 0) -> None:
        super().__init__(every_n_epochs)
        self.require(least=2, clips=clips, after=after)
        self.clips = clips
        self.after = after
        self.seed = seed

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``surprise.png``."""
        at = model.config.history + 1
        window = WindowSpec(history=at, predictions=self.after, frame_skip=model.config.frame_skip)
        clean = draw_windows(data, window, count=self.clips, seed=self.seed, part="test")
        shown = {"clean": clean, "colour": recoloured(clean, at), "teleport": teleported(clean, at, data)}
        curves = {name: surprise(model, clips) for name, clips in shown.items()}
        draw_curves(curves, at, folder / "surprise.png")
        found: dict[str, float] = {}
        usual = curves["clean"][:, at - 1]
        for name in ("colour", "teleport"):
            scores = compare(usual, curves[name][:, at - 1])
            found |= {f"{name}/{key}": value for key, value in scores.items()}
        return found


def surprise(model: WorldModel, clips: Clips) -> Array:
    """Return the surprise (P, T-1) at every frame but the first."""
    count, length = clips["pixels"].shape[:2]
    device = model.action_mean.device
    found = np.empty((count, length - 1), np.float32)
    for begin in range(0, count, AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        part = {name: torch.from_numpy(array[rows]).to(device) for name, array in clips.items()}
        with torch.inference_mode():
            latents = model.encode(part)
            for frame in range(1, length):
                seen = slice(max(0, frame - model.config.history), frame)
                expected = model.predict(latents[:, seen], part["action"][:, seen])[:, -1]
                found[rows, frame - 1] = distances(
                    model, expected.float().cpu().numpy(), latents[:, frame].float().cpu().numpy()
                )
    return found


def compare(usual: Array, violated: Array) -> dict[str, float]:
    """AUROC, p of the paired t-test, and ratio of the means, of surprise (P,) without and with a violation."""
    scores = np.concatenate([usual, violated])
    labels = np.repeat([0, 1], len(usual))
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "p": float(ttest_rel(violated, usual).pvalue),
        "ratio": float(violated.mean() / usual.mean()) if usual.any() else math.inf,
    }


def recoloured(clips: Clips, at: int) -> Clips:
    """Red, green and blue change places from frame ``at`` on."""
    pixels = clips["pixels"].copy()
    pixels[:, at:] = np.roll(pixels[:, at:], 1, axis=-1)
    return {**clips, "pixels": pixels}


def teleported(clips: Clips, at: int, data: EpisodeDataModule) -> Clips:
    """From frame ``at`` on the agent is where it is in the next clip and does the same; drawn by the environment.

    What of the state is called ``agent_…`` moves; where nothing is, all of it does.
    """
    environment = environment_factory(data)()
    names = environment.state_names
    moved = [index for index, name in enumerate(names) if name.startswith("agent_")] or list(range(len(names)))
    state = clips["state"].copy()
    state[:, at:, moved] = np.roll(clips["state"], 1, axis=0)[:, at:, moved]
    pixels = clips["pixels"].copy()
    actions = clips["action"].copy()
    actions[:, at:] = np.roll(actions, 1, axis=0)[:, at:]
    changed = {"pixels": pixels, "state": state, "action": actions}
    if "proprio" in clips:
        changed["proprio"] = clips["proprio"].copy()
    for clip, frame in np.ndindex(len(state), state.shape[1] - at):
        place = state[clip, at + frame].astype(np.float64)
        pixels[clip, at + frame] = environment.picture(place)
        if "proprio" in clips:
            changed["proprio"][clip, at + frame] = environment.proprio_of(place)
    return {**clips, **changed}


def draw_curves(curves: dict[str, Array], at: int, file: Path) -> None:
    """Draw mean and standard error of surprise (P, T-1) over the frames; the violation is at frame ``at``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for name, values in curves.items():
        mean, error = values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))
        frames = np.arange(1, 1 + len(mean))
        axis.plot(frames, mean, marker="o", label=name)
        axis.fill_between(frames, mean - error, mean + error, alpha=0.2)
    axis.axvline(at, color="grey", linestyle=":", linewidth=1)
    axis.set(xlabel="frame", ylabel="surprise", ylim=(0, None))
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)
