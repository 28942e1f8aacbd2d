"""Whether a model of slots looks at, and depends on, the objects that touch.

Shape letters: P windows, B windows at once, T frames, H history frames, O object slots, N latent tokens per frame,
M tokens of a frame in the predictor, D latent width, A action-block width, L environment steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from jepakit.callbacks.frames import AT_ONCE
from jepakit.callbacks.quantities import random_model
from jepakit.callbacks.scenes import SceneProbe, State, rendered
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.envs.scene import FIELDS, PRESENT, X, pairs
from jepakit.envs.scene_env import SceneEnv
from jepakit.zoo.base import WorldModel
from jepakit.zoo.cjepa.model import CJEPAModel

Array = NDArray[np.floating]
Flags = NDArray[np.bool_]


class AttentionProbe(SceneProbe):
    """Does C-JEPA with true states as slots look at what touches? Scores of ordered pairs of objects (i, j), as AUROC.

    Scores, over ``cases`` windows of test episodes in which nothing is pushed:

    - ``attention``: what the queries of i in future frames give to the tokens of j, mean over layers and heads.
    - ``ablation``: how much the prediction of i changes when j is an empty slot in the whole history.
    - ``attention_random``, ``ablation_random``: the same of a predictor with random weights; ``distance``: how near i
      and j are in the last frame seen. Chance is 0.5.

    Each as ``SCORE/auroc_window`` for pairs that touch at some step of the window, and ``SCORE/auroc_ahead`` for those
    that touch in the frames to be predicted; ``touch_window`` and ``touch_ahead`` are their shares among all pairs.
    ``attention.png`` shows the curves, and some windows with their pairs.

    Says what goes together with contact in these scenes, not that one causes the other.
    """

    name: ClassVar[str] = "attention"

    def __init__(self, every_n_epochs: int = 0, cases: int = 256, seed: int = 0) -> None:
        super().__init__(every_n_epochs, cases, seed)

    def check(self, model: WorldModel) -> None:
        """Raise ``ValueError`` for a model whose slots are not, one by one, the objects of a scene."""
        if not isinstance(model, CJEPAModel) or model.config.encoder != "oracle":
            encoder = f" with the encoder {model.config.encoder!r}" if isinstance(model, CJEPAModel) else ""
            raise ValueError(
                f"AttentionProbe: found {type(model).__name__}{encoder}, expected a C-JEPA with the encoder 'oracle', "
                "whose slots are known objects: configs/data/collisions_oracle.yaml"
            )
        for slot, columns in enumerate(model.config.oracle_objects):
            if any(column // len(FIELDS) != slot for column in columns):
                raise ValueError(
                    f"AttentionProbe: found slot {slot} made of the columns {list(columns)} of 'state', expected those "
                    f"of object {slot}, from {slot * len(FIELDS)} on; order oracle_objects as the scene is"
                )

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``attention.png``."""
        assert isinstance(model, CJEPAModel)
        environment = self.environment(data)
        if environment.slots != model.config.slots:
            raise ValueError(
                f"AttentionProbe: found {model.config.slots} slots for scenes of {environment.slots} objects, expected "
                "as many; use the data that the model was trained on"
            )
        states, touch = self._windows(data, environment, model)
        clips = rendered(environment, states, model)
        history = model.config.history
        untrained = random_model(model)
        assert isinstance(untrained, CJEPAModel)
        last = states[:, history - 1].reshape(len(states), environment.slots, -1)
        places = last[..., X : X + 2]
        scores: dict[str, Array] = {"distance": -np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)}
        for suffix, predicting in (("", model), ("_random", untrained)):
            attention, ablation = _influence(model, predicting, clips)
            scores |= {f"attention{suffix}": attention, f"ablation{suffix}": ablation}
        there = last[..., PRESENT] == 1
        known = there[:, :, None] & there[:, None] & ~np.eye(environment.slots, dtype=bool)
        found: dict[str, float] = {}
        for when, touching in touch.items():
            if not touching[known].any():
                raise ValueError(
                    f"AttentionProbe.cases: found no objects that touch in {self.cases} windows; ask for more"
                )
            found[f"touch_{when}"] = float(touching[known].mean())
            for name, score in scores.items():
                found[f"{name}/auroc_{when}"] = float(roc_auc_score(touching[known], score[known]))
        draw_attention(environment, states[:, history - 1], scores, touch["ahead"], known, folder / "attention.png")
        return found

    def _windows(
        self, data: EpisodeDataModule, environment: SceneEnv, model: CJEPAModel
    ) -> tuple[State, dict[str, Flags]]:
        """States (P, T, 12 O) of windows, and which objects touch (P, O, O), in the window and in its future."""
        skip, config = model.config.frame_skip, model.config
        states, contacts = [], []
        for state, _ in self.starts(data):
            path = environment.resimulate(state, (config.history - 1 + config.future) * skip)
            states.append([state, *path.states[skip - 1 :: skip]])
            contacts.append(path.contacts > 0)
            if len(states) == self.cases:
                break
        steps: Flags = np.array(contacts)
        ahead = (config.history - 1) * skip
        return np.array(states), {
            "window": _graph(steps, environment.slots),
            "ahead": _graph(steps[:, ahead:], environment.slots),
        }


def _graph(touching: Flags, slots: int) -> Flags:
    """Who touches whom (P, O, O) in some of the steps (P, L, O(O+1)/2), pairs as in ``scene.pairs``."""
    touched: Flags = np.logical_or.reduce(touching, axis=1)
    table = np.zeros((len(touched), slots + 1, slots + 1), bool)
    for (first, second), flags in zip(pairs(slots), touched.T, strict=True):
        table[:, first, second] = table[:, second, first] = flags
    return table[:, :slots, :slots]


def _influence(encoding: CJEPAModel, predicting: CJEPAModel, clips: dict[str, NDArray[Any]]) -> tuple[Array, Array]:
    """Attention and ablation (P, O, O) of j on i, of the predictor of one model on the slots of another."""
    device, history = encoding.action_mean.device, encoding.config.history
    attention, ablation = [], []
    for begin in range(0, len(clips["state"]), AT_ONCE):
        given = {
            name: torch.from_numpy(array[begin : begin + AT_ONCE, :history]).to(device) for name, array in clips.items()
        }
        with torch.inference_mode():
            z, a = encoding.encode(given), predicting.embed_actions(given["action"])
            attention.append(_attention(predicting, z, a).float().cpu().numpy())
            ablation.append(_ablation(predicting, z, a).float().cpu().numpy())
    return np.concatenate(attention), np.concatenate(ablation)


def _attention(model: CJEPAModel, z: Tensor, a: Tensor) -> Tensor:
    """Weights (B, O, O) of the tokens of j in future queries of i, from latents (B, H, N, D) and actions (B, H, D)."""
    weights = model.predictor.attention(torch.cat([z, a.unsqueeze(2)], dim=2))
    between = weights[:, :, :, z.shape[1] :].sum(dim=5).mean(dim=(1, 2, 3))  # (B, M, M)
    return between[:, : model.config.slots, : model.config.slots]


def _ablation(model: CJEPAModel, z: Tensor, a: Tensor) -> Tensor:
    """Mean squared change (B, O, O) of the prediction of i when slot j is empty; see ``_attention``."""
    slots = model.config.slots
    usual = model.predict_next(z, a)
    changes = []
    for slot in range(slots):
        without = z.clone()
        without[:, :, slot] = 0.0
        changes.append((model.predict_next(without, a) - usual).square().mean(dim=-1)[:, :slots])
    return torch.stack(changes, dim=-1)


def draw_attention(
    environment: SceneEnv, states: State, scores: dict[str, Array], touching: Flags, known: Flags, file: Path
) -> None:
    """Draw ROC curves, and three windows in which objects will touch: lines as wide as attention, red where they do."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = np.flatnonzero(touching.any(axis=(1, 2)))[:3]
    figure = Figure(figsize=(3.2 * (len(shown) + 1), 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot(1, len(shown) + 1, 1)
    for name, score in sorted(scores.items()):
        false, true, _ = roc_curve(touching[known], score[known])
        axis.plot(false, true, label=name, linestyle=":" if name.endswith("_random") else "-")
    axis.set(xlabel="pairs that do not touch", ylabel="pairs that will touch", aspect="equal")
    axis.legend(fontsize=7)
    extent = environment.physics.extent
    for column, window in enumerate(shown):
        axis = figure.add_subplot(1, len(shown) + 1, column + 2)
        axis.imshow(environment.picture(states[window]), extent=(0, extent, extent, 0))
        places = states[window].reshape(environment.slots, -1)[:, X : X + 2]
        weight = scores["attention"][window] + scores["attention"][window].T
        for first, second in np.argwhere(np.triu(known[window])):
            colour = "red" if touching[window, first, second] else "black"
            width = 6 * weight[first, second] / weight[known[window]].max()
            axis.plot(*places[[first, second]].T, color=colour, linewidth=width, alpha=0.6)
        axis.set(xticks=[], yticks=[], xlabel="wide: attention; red: will touch")
    figure.savefig(file, dpi=110)
