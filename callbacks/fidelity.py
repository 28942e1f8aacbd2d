"""Tells whether a model ranks action plans as the world does, and whether it listens to actions.

Shape letters: M tasks, S candidates, K horizon in blocks, A action-block width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional import spearman_corrcoef

from jepakit.callbacks.frames import AT_ONCE, encode_frames
from jepakit.callbacks.open_loop import OTHERS, OWN, STATIC, distances, draw_errors, open_loop_errors
from jepakit.callbacks.probe import Probe
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.envs.base import GoalEnv
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning.cem import CEM, CEMConfig
from jepakit.planning.evaluation.loop import assign
from jepakit.planning.evaluation.manifest import Task
from jepakit.planning.noise import colouring
from jepakit.planning.planner import Observation, Planner
from jepakit.zoo.base import WorldModel

Array = NDArray[np.float32]

_SEARCH = CEMConfig(samples=64, iterations=4, elites=8, noise_exponent=2.0)


@dataclass(frozen=True)
class Bank:
    """Candidates of one kind: what the model says they cost (M, S), and how far they really end from the goal (M, S).

    The true distance is in units of the success criterion.
    """

    predicted: Array
    true: Array

    def ranking(self) -> float:
        """Mean over the tasks of Spearman's correlation; tasks whose candidates all end alike say nothing."""
        return _spearman(self.predicted, self.true)


class FidelityProbe(Probe):
    """How truly the model judges plans, on a fixed bank of candidates from validation episodes.

    For each of ``tasks`` start and goal pairs, ``horizon`` blocks apart, ``candidates`` plans of each kind are imagined
    and really executed: ``random`` ones (coloured noise of the training actions' mean and deviation), and ``elite``
    ones, a search's answer with noise of a fifth of that deviation: those that the planner likes. Reported:

    - ``ranking_random``, ``ranking_elite``: Spearman's correlation of the imagined cost with the true final distance.
    - ``latent_distance``: the same of real frames' distance to the goal, in latents and in truth, over whole episodes.
    - ``open_loop_over_static``: error of ``horizon`` imagined blocks along true actions, over that of "nothing moves".
    - ``shuffle_gap``: the same error along another window's actions, over that along the true ones; 1 means that the
      model does not listen to actions.

    Takes the latents of single frames, so models whose slots follow objects start from one frame, too.
    """

    name: ClassVar[str] = "fidelity"
    in_environment: ClassVar[bool] = True

    def __init__(
        self,
        every_n_epochs: int = 0,
        tasks: int = 20,
        candidates: int = 32,
        horizon: int = 5,
        windows: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs)
        self.require(least=1, tasks=tasks, horizon=horizon)
        self.require(least=2, candidates=candidates, windows=windows)
        self.tasks = tasks
        self.candidates = candidates
        self.horizon = horizon
        self.windows = windows
        self.seed = seed

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``fidelity.png``."""
        backend = TorchBackend(model, environments_per_call=AT_ONCE)
        environment = environment_factory(data)()
        offset = self.horizon * model.config.frame_skip
        tasks = tasks_of(data, TaskConfig(count=self.tasks, offset=offset, split="val", seed=self.seed)).tasks
        banks = self._banks(backend, environment, tasks)
        frames = self._frame_distances(backend, data, environment, tasks)
        errors = open_loop_errors(backend, data, horizon=self.horizon, windows=self.windows, seed=self.seed)
        draw_fidelity(banks, errors, folder / "fidelity.png")
        last = {name: float(values[-1]) for name, values in errors.items()}
        return {
            **{f"ranking_{name}": bank.ranking() for name, bank in banks.items()},
            "latent_distance": frames.ranking(),
            "open_loop_over_static": last[OWN] / last[STATIC],
            "shuffle_gap": last[OTHERS] / last[OWN],
        }

    # -- candidates --------------------------------------------------------------------------------------------------
    def _banks(self, backend: TorchBackend, environment: GoalEnv, tasks: tuple[Task, ...]) -> dict[str, Bank]:
        """Imagine and execute the candidates of both kinds."""
        planner = Planner(backend, CEM(_SEARCH), bounded=True)
        spec = backend.spec
        colour = colouring(horizon=self.horizon, frame_skip=spec.frame_skip, width=spec.block_width, exponent=2.0)
        found: dict[str, list[tuple[Array, list[float]]]] = {"random": [], "elite": []}
        for task in tasks:
            rng = np.random.default_rng([self.seed, task.id])
            start, goal_state = np.asarray(task.state), np.asarray(task.goal_state)
            environment.reset(seed=0, options={"state": start, "goal": goal_state})
            given = assign(environment, start, goal_state, rng)
            goal = planner.encode_goal(given.goal_frame[None], given.goal_proprio[None])
            seen = planner.observe(environment.render()[None, None], proprio=environment.proprio[None, None])
            white = rng.standard_normal((2, self.candidates, colour.shape[0]), np.float32)
            noise = (white @ colour).reshape(2, self.candidates, self.horizon, spec.block_width)
            liked = planner.plan(seen, goal, horizon=self.horizon, rngs=[rng]).actions[0]
            standard = (liked - spec.action_mean) / spec.action_std
            for name, plans in (("random", noise[0]), ("elite", standard + 0.2 * noise[1])):
                raw = np.ascontiguousarray(planner.raw(plans), np.float32)
                cost = _cost(backend, seen, raw, goal)
                found[name].append((cost, [_outcome(environment, start, goal_state, plan) for plan in raw]))
        return {
            name: Bank(np.stack([cost for cost, _ in pairs]), np.array([true for _, true in pairs], np.float32))
            for name, pairs in found.items()
        }

    def _frame_distances(
        self, backend: TorchBackend, data: EpisodeDataModule, environment: GoalEnv, tasks: tuple[Task, ...]
    ) -> Bank:
        """Compare frames of each task's own episode with its goal: cost (M, P) and true distance (M, P)."""
        source, length = data.source, int(min(data.source.lengths[task.episode] for task in tasks))
        chosen = np.linspace(0, length - 1, min(length, self.candidates)).astype(np.int64)
        cost, true = [], []
        for task in tasks:
            rows = source.offsets[task.episode] + chosen
            goal_state = np.asarray(task.goal_state)
            goal = encode_frames(
                backend, environment.picture(goal_state)[None], environment.proprio_of(goal_state)[None]
            )
            proprio = source.read("proprio", rows) if backend.spec.proprio else None
            latents = encode_frames(backend, source.read("pixels", rows), proprio)
            cost.append(distances(backend.model, latents, np.repeat(goal, len(rows), axis=0)))
            true.append([environment.distance(state, goal_state) for state in source.read("state", rows)])
        return Bank(np.stack(cost), np.array(true, np.float32))


def draw_fidelity(banks: dict[str, Bank], errors: dict[str, Array], file: Path) -> None:
    """Draw the candidates of four tasks, imagined against true, and the open-loop error after every block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = min(4, len(next(iter(banks.values())).true))
    figure = Figure(figsize=(3.2 * (shown + 1), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for task in range(shown):
        axis = figure.add_subplot(1, shown + 1, task + 1)
        for name, bank in banks.items():
            axis.scatter(bank.true[task], bank.predicted[task], s=8, linewidths=0, label=name)
        axis.axvline(1.0, color="grey", linestyle=":", linewidth=1)
        axis.set(title=f"task {task}", xlabel="true distance / criterion")
        if task == 0:
            axis.set_ylabel("imagined cost")
            axis.legend(fontsize=8)
    axis = figure.add_subplot(1, shown + 1, shown + 1)
    draw_errors(axis, errors)
    figure.savefig(file, dpi=110)


def _cost(backend: TorchBackend, seen: Observation, plans: Array, goal: Array) -> Array:
    """Imagined cost (S,) at the end of raw plans (S, K, A)."""
    return backend.score(seen.latents, seen.past_actions, plans[None], goal).distance[0, :, -1]


def _outcome(environment: GoalEnv, start: NDArray[Any], goal: NDArray[Any], plan: Array) -> float:
    """Return the true distance to the goal after a raw plan (K, A)."""
    environment.reset(seed=0, options={"state": start, "goal": goal})
    assert environment.action_space.shape is not None
    for action in plan.reshape(-1, *environment.action_space.shape):
        environment.advance(action)
    return float(environment.distance(environment.state, goal))


def _spearman(predicted: Array, true: Array) -> float:
    """Mean of Spearman's correlation of the rows (M, S) that are not constant."""
    rows = [(p, t) for p, t in zip(predicted, true, strict=True) if np.ptp(p) > 0 and np.ptp(t) > 0]
    found = [float(spearman_corrcoef(torch.from_numpy(p), torch.from_numpy(t))) for p, t in rows]
    return float(np.mean(found)) if found else float("nan")
