"""What a model says would happen if an object were not there.

Shape letters: P cases, T frames, H history frames, K horizon in blocks, D state entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor

from jepakit.callbacks.decoder import draw_strip
from jepakit.callbacks.frames import AT_ONCE
from jepakit.callbacks.open_loop import distances
from jepakit.callbacks.scenes import MATTERS, Clips, SceneProbe, State, moved, rendered, table
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.envs.scene import delete, pairs
from jepakit.envs.scene_env import Continuation, SceneEnv
from jepakit.zoo.base import WorldModel

Array = NDArray[np.float32]

_SHOWN = 2  # cases of each outcome in the picture


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What really ``went`` on (H + K, D), what ``would`` without the object (H + K, D), and two wrong answers to that.

    ``factual`` (D,) is the end of ``went``, the object removed. ``collide`` is whether the others meet, with an effect;
    None if they meet without one. ``other`` (D,) is the end that says the opposite.
    """

    went: State
    would: State
    factual: State
    other: State
    collide: bool | None


class CounterfactualProbe(SceneProbe):
    """What if an object were not there? Answers are scored against the simulator's, in the model's own distance.

    In each case an object is deleted from ``history`` frames in which it touched nothing, and ``horizon`` blocks are
    imagined. Scored are only deletions that matter: some other object ends more than 4 units from where it would have.
    In half of them the other objects still meet, with such an effect; in the other half none touch any more.

    - ``cf_gain``: 1 − distance from what would be / distance of what really happened from that, the deleted object
      being removed from both, ratio of the means: 1 for the truth, 0 for an answer as good as "as it really went".
    - ``f1`` of the answer "the others meet": the imagined end is nearer to one in which they do than to one in which
      they do not. Where they would meet, these are what would be, and a world in which objects pass through each other;
      where they would not, what really happened, and what would be. Always saying so scores 2/3.
    - ``…_floor`` are those of the last frame repeated, ``…_ceiling`` of the true future, ``f1_went`` of "as it really
      went". A ceiling is below 1 where frames encoded one by one differ from the same frames in a clip.
    - ``share`` of the deletions that matter, among those of objects that touched nothing.

    ``counterfactual.png`` shows some cases.
    """

    name: ClassVar[str] = "counterfactual"

    def __init__(self, every_n_epochs: int = 0, cases: int = 48, horizon: int = 4, seed: int = 0) -> None:
        super().__init__(every_n_epochs, cases, seed)
        self.require(least=1, horizon=horizon)
        self.horizon = horizon

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``counterfactual.png``."""
        environment = self.environment(data)
        cases, share = self._draw(data, environment, model)
        would, went = (
            rendered(environment, np.array([getattr(case, name) for case in cases]), model)
            for name in ("would", "went")
        )
        ends = rendered(environment, np.array([[case.factual, case.other] for case in cases]), model)
        shown = [*range(_SHOWN), *range(-_SHOWN, 0)] if len(cases) >= 2 * _SHOWN else list(range(len(cases)))
        strip = {"as it went": went["pixels"][shown], "without it": would["pixels"][shown]}
        draw_strip(strip, folder / "counterfactual.png")
        collide = np.array([case.collide for case in cases])
        answers = _answers(model, would, ends)
        scale = answers["went"][0].mean()
        found = {"share": share}
        for suffix, name in (("", "imagined"), ("_floor", "last"), ("_ceiling", "true"), ("_went", "went")):
            wrong, opposite = answers[name]
            if name != "went":  # whose gain is 0 by definition
                found[f"cf_gain{suffix}"] = float(1 - wrong.mean() / scale)
            found[f"f1{suffix}"] = float(f1_score(collide, (wrong < opposite) == collide, zero_division=0.0))
        return found

    def _draw(self, data: EpisodeDataModule, environment: SceneEnv, model: WorldModel) -> tuple[list[Deletion], float]:
        """Cases, first those in which the others meet, as many of both; and the share of deletions that matter."""
        skip, history = model.config.frame_skip, model.config.history
        each = self.cases // 2
        kept: dict[bool, list[Deletion]] = {True: [], False: []}
        apart, matter = 0, 0
        for state, chosen in self.starts(data):
            past = environment.resimulate(state, (history - 1) * skip)
            if _touched(past, environment.slots, chosen):
                continue
            apart += 1
            seen = np.array([state, *past.states[skip - 1 :: skip]])
            case = _deletion(environment, seen, chosen, steps=self.horizon * skip, skip=skip)
            matter += case is not None
            if case is not None and case.collide is not None and len(kept[case.collide]) < each:
                kept[case.collide].append(case)
            if all(len(cases) == each for cases in kept.values()):
                break
        return kept[True] + kept[False], matter / apart


def _deletion(environment: SceneEnv, seen: State, chosen: int, *, steps: int, skip: int) -> Deletion | None:
    """What follows ``seen`` (H, D) with and without an object; nothing where that is the same for all others."""
    factual = environment.resimulate(seen[-1], steps).states
    would = environment.resimulate(seen[-1], steps, without=chosen)
    end = _without(factual[-1], chosen)
    if moved(end, would.states[-1]) < MATTERS:
        return None
    everything = range(environment.slots)
    free = environment.resimulate(seen[-1], steps, without=chosen, ghosts=everything).states[-1]
    meet = moved(free, would.states[-1]) >= MATTERS
    return Deletion(
        went=np.concatenate([seen, factual[skip - 1 :: skip]]),
        would=np.array([*(_without(frame, chosen) for frame in seen), *would.states[skip - 1 :: skip]]),
        factual=end,
        other=free if meet else end,
        collide=None if not meet and _touched(would, environment.slots) else meet,
    )


def _answers(model: WorldModel, would: Clips, ends: Clips) -> dict[str, Array]:
    """Distances (2, P) of each answer from the right end and from the opposite one; ends are encoded by themselves.

    ``would`` are clips of H + K frames, ``ends`` of two: what really happened, and the opposite.
    """
    device, history = model.action_mean.device, model.config.history
    found: dict[str, list[Array]] = {}
    for begin in range(0, len(would["pixels"]), AT_ONCE):
        clip, wrong = (
            {name: torch.from_numpy(array[begin : begin + AT_ONCE]).to(device) for name, array in clips.items()}
            for clips in (would, ends)
        )
        with torch.inference_mode():
            latents = model.encode(clip)
            past, ahead = clip["action"].tensor_split((history - 1,), dim=1)
            imagined = model.rollout(latents[:, :history], past, ahead[:, None, :-1])[:, 0, -1]
            right, went, opposite = (
                model.encode({name: column[:, [frame]] for name, column in shown.items()})[:, 0]
                for shown, frame in ((clip, -1), (wrong, 0), (wrong, 1))
            )
        answers = {"imagined": imagined, "last": latents[:, history - 1], "true": latents[:, -1], "went": went}
        for name, answer in answers.items():
            pair = [_distances(model, answer, end) for end in (right, opposite)]
            found.setdefault(name, []).append(np.stack(pair))
    return {name: np.concatenate(pairs, axis=1) for name, pairs in found.items()}


def _distances(model: WorldModel, answer: Tensor, end: Tensor) -> Array:
    return distances(model, answer.float().cpu().numpy(), end.float().cpu().numpy())


def _without(state: State, chosen: int) -> State:
    return delete(table(state), chosen).ravel()


def _touched(path: Continuation, slots: int, chosen: int | None = None) -> bool:
    """Whether two objects, one of them ``chosen`` if there is one, exchanged an impulse; the border aside."""
    partners = [
        index for index, pair in enumerate(pairs(slots)) if slots not in pair and (chosen is None or chosen in pair)
    ]
    return bool((path.contacts[:, partners] > 0).any())
