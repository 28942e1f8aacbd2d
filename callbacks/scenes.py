"""What a model makes of scenes of rigid objects: what all such probes share, and what no object can do.

Shape letters: P cases, T frames, H history frames, K horizon in blocks, L environment steps, N latent tokens per frame,
D latent width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from jepakit.callbacks.probe import Probe
from jepakit.callbacks.surprise import compare, draw_curves, surprise
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import environment_factory
from jepakit.envs.scene import FIELDS, PRESENT, X
from jepakit.envs.scene_env import SceneEnv
from jepakit.zoo.base import WorldModel

Array = NDArray[np.float32]
State = NDArray[np.float64]
Clips = dict[str, NDArray[Any]]

MATTERS = 4.0  # units by which some object must end elsewhere; the world is 128 wide


class SceneProbe(Probe):
    """Base of probes that simulate scenes of the test episodes anew, with a change. Nothing is pushed in them."""

    def __init__(self, every_n_epochs: int = 0, cases: int = 48, seed: int = 0) -> None:
        super().__init__(every_n_epochs)
        self.require(least=2, cases=cases)
        self.cases = cases
        self.seed = seed

    def check_data(self, data: EpisodeDataModule) -> None:
        """Raise ``ValueError`` for data of no scenes."""
        self.environment(data)

    def environment(self, data: EpisodeDataModule) -> SceneEnv:
        """Build the environment; ``ValueError`` for one without objects that can be simulated with a change."""
        environment = environment_factory(data)()
        if not isinstance(environment, SceneEnv):
            raise ValueError(
                f"{type(self).__name__}: found data of {type(environment).__name__}, expected Collisions or Gravity"
            )
        return environment

    def starts(self, data: EpisodeDataModule) -> Iterator[tuple[State, int]]:
        """Draw states of test episodes, and in each an object that is there and is not object 0.

        Raises ``ValueError`` after 100 draws per case: then nearly none of them was of use.
        """
        rng = np.random.default_rng(self.seed)
        source = data.source
        for _ in range(100 * self.cases):
            episode = rng.choice(data.parts["test"])
            row = source.offsets[episode] + rng.integers(source.lengths[episode])
            state = source.read("state", np.array([row]))[0].astype(np.float64)
            there = np.flatnonzero(table(state)[1:, PRESENT]) + 1
            if len(there):
                yield state, int(rng.choice(there))
        raise ValueError(
            f"{type(self).__name__}.cases: found fewer than {self.cases} that matter in {100 * self.cases} draws; look "
            "further ahead, ask for fewer, or use scenes in which objects meet"
        )


class PhysicsProbe(SceneProbe):
    """Whether the model finds the impossible more surprising than the possible, from the same start.

    ``ghost``: an object passes through all others; ``frozen``: it stops and stays where it is. Clips of ``history`` + 1
    frames as they must be, then ``after`` more: as they go, and against the law. Only pairs that end differently are
    taken. Reported of the mean surprise after the split: ``KIND/auroc``, ``KIND/p`` (paired t-test) and ``KIND/ratio``;
    ``physics.png`` shows the curves.
    """

    name: ClassVar[str] = "physics"

    def __init__(self, every_n_epochs: int = 0, cases: int = 48, after: int = 4, seed: int = 0) -> None:
        super().__init__(every_n_epochs, cases, seed)
        self.require(least=1, after=after)
        self.after = after

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``physics.png``."""
        environment = self.environment(data)
        found: dict[str, float] = {}
        curves: dict[str, Array] = {}
        at = model.config.history + 1
        for kind in ("ghost", "frozen"):
            possible, impossible = self._pairs(data, environment, model, kind)
            usual, strange = (surprise(model, rendered(environment, clips, model)) for clips in (possible, impossible))
            curves |= {f"{kind}: possible": usual, f"{kind}: impossible": strange}
            scores = compare(usual[:, at - 1 :].mean(axis=1), strange[:, at - 1 :].mean(axis=1))
            found |= {f"{kind}/{name}": value for name, value in scores.items()}
        draw_curves(curves, at, folder / "physics.png")
        return found

    def _pairs(
        self, data: EpisodeDataModule, environment: SceneEnv, model: WorldModel, kind: str
    ) -> tuple[State, State]:
        """States (P, T, 12 N) of clips that part after ``history`` + 1 frames."""
        skip, known = model.config.frame_skip, model.config.history
        possible: list[list[State]] = []
        impossible: list[list[State]] = []
        for state, chosen in self.starts(data):
            start = [state, *environment.resimulate(state, known * skip).states[skip - 1 :: skip]]
            steps = self.after * skip
            usual = environment.resimulate(start[-1], steps).states[skip - 1 :: skip]
            ghosts, frozen = ({chosen}, ()) if kind == "ghost" else ((), {chosen})
            against = environment.resimulate(start[-1], steps, ghosts=ghosts, frozen=frozen)
            strange = against.states[skip - 1 :: skip]
            if moved(usual[-1], strange[-1]) >= MATTERS:
                possible.append([*start, *usual])
                impossible.append([*start, *strange])
            if len(possible) == self.cases:
                break
        return np.array(possible), np.array(impossible)


def rendered(environment: SceneEnv, states: State, model: WorldModel) -> Clips:
    """Observations of states (P, T, 12 N): pictures, proprioception, states, and actions of zero."""
    count, length = states.shape[:2]
    size = environment.image_size
    pixels = np.empty((count, length, size, size, 3), np.uint8)
    for index in np.ndindex(count, length):
        pixels[index] = environment.picture(states[index])
    proprio = np.array([environment.proprio_of(state) for state in states.reshape(-1, states.shape[-1])])
    width = model.config.frame_skip * model.config.action_dim
    return {
        "pixels": pixels,
        "proprio": proprio.reshape(count, length, -1).astype(np.float32),
        "state": states.astype(np.float32),
        "action": np.zeros((count, length, width), np.float32),
    }


def table(state: State) -> NDArray[np.float64]:
    """One row per object of a state (12 N,): its ``scene.FIELDS``."""
    return state.reshape(-1, len(FIELDS))


def moved(first: State, second: State) -> float:
    """Largest distance between the places of an object in two states."""
    there = table(first)[:, PRESENT] * table(second)[:, PRESENT] > 0
    gap = np.linalg.norm(table(first)[:, X : X + 2] - table(second)[:, X : X + 2], axis=1)
    return float(np.max(gap[there], initial=0.0))
