"""Evaluate a world model in its environment: the glue between data, zoo and planning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import Progress

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.recording import load_class
from jepakit.datamodules.tasks import environment_factory
from jepakit.export.runtime.torch_backend import GoalCost, TorchBackend
from jepakit.hub import resolve
from jepakit.planning.backend import Backend
from jepakit.planning.evaluation.loop import Recording
from jepakit.planning.evaluation.manifest import Manifest
from jepakit.planning.evaluation.protocol import EvaluationConfig, evaluate
from jepakit.planning.evaluation.report import Evaluation
from jepakit.planning.mpc import MPCPolicy
from jepakit.planning.policies import Policy, RandomPolicy, Scripted, StayPolicy
from jepakit.planning.settings import PlannerConfig
from jepakit.planning.two_level import TwoLevelConfig, TwoLevelPolicy
from jepakit.results import read_evaluation
from jepakit.zoo.base import WorldModel
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.distance.model import DistanceModel
from jepakit.zoo.latents import load_latent_model
from jepakit.zoo.macro.model import CoarseWorld, MacroModel
from jepakit.zoo.readout import Readout
from jepakit.zoo.weights import OFFICIAL

_VIDEO = re.compile(r".+-\d{3,}-(solved|failed)\.webp")  # as save_evaluation names them


@dataclass(frozen=True, kw_only=True)
class EvaluationPlannerConfig(PlannerConfig):
    """How to plan with PyTorch: on how many ``threads`` (see ``TorchBackend``), with which ``readout`` and controller.

    The file of a readout (``jepakit.zoo.readout``) is for objectives in physical quantities; ``controller_weights``, a
    folder or Hub id, for the solver ``controller`` and for ``proposals``. ``distance_weights`` are those of a learned
    distance to the goal, which takes the place of the model's own; with ``by_readout`` it is the squared difference of
    the readout's quantities. With ``macro_weights``, those of a macro-action model, far goals are approached by
    subgoals as ``two_level`` says.
    """

    threads: int | None = None
    readout: str | None = None
    controller_weights: str | None = None
    distance_weights: str | None = None
    by_readout: bool = False
    macro_weights: str | None = None
    two_level: TwoLevelConfig = field(default_factory=TwoLevelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by_readout and (self.readout is None or self.distance_weights is not None):
            raise ValueError("planner.by_readout: found true, expected it with a readout and without distance_weights")

    def load_readout(self) -> Readout | None:
        """Read the readout, if there is one."""
        return Readout.load(self.readout) if self.readout else None

    def load_controller(self) -> ControllerModel | None:
        """Read the controller, if there is one."""
        return load_latent_model(ControllerModel, self.controller_weights) if self.controller_weights else None

    def load_distance(self) -> GoalCost | None:
        """Read what judges the distance to the goal in place of the model, if anything does."""
        if self.by_readout:
            return self.load_readout()
        return load_latent_model(DistanceModel, self.distance_weights) if self.distance_weights else None

    def trained_weights(self) -> list[str]:
        """What beside the world model was trained on episodes, too: weights, and the file of a readout."""
        parts = (self.controller_weights, self.distance_weights, self.macro_weights, self.readout)
        return [part for part in parts if part]

    def policy(self, backend: Backend) -> MPCPolicy:
        """Build the policy; with ``macro_weights`` it plans on two time scales."""
        below = super().policy(backend)
        if not self.macro_weights:
            return below
        assert isinstance(backend, TorchBackend)
        macro = load_latent_model(MacroModel, self.macro_weights)
        coarse = TorchBackend(CoarseWorld(backend.model, macro), distance=backend.distance, threads=self.threads)
        return TwoLevelPolicy(below, coarse, reach=macro.config.steps, config=self.two_level)

    def backend(self, model: WorldModel) -> TorchBackend:
        """Put the model behind PyTorch."""
        return TorchBackend(
            model,
            self.load_readout(),
            controller=self.load_controller(),
            distance=self.load_distance(),
            threads=self.threads,
        )


def evaluate_model(
    model: WorldModel,
    data: EpisodeDataModule,
    *,
    planner: EvaluationPlannerConfig,
    manifest: Manifest,
    evaluation: EvaluationConfig,
    settings: dict[str, Any],
) -> Evaluation:
    """Success rates of the model, random, stay and scripted policies on the same tasks.

    ``data`` must be set up. Raises ``ValueError`` when data and model disagree or no environment is known.
    """
    make_environment = environment_factory(data)
    check_fit(model, data)
    if manifest.data_fingerprint != data.source.fingerprint:
        settings = {**settings, "held_out": "not known (the task list is of other data)"}
    policies: dict[str, Policy] = {
        model.name: planner.policy(planner.backend(model)),
        "random": RandomPolicy.uniform(*_bounds(data)),
        "stay": StayPolicy(data.action_dim),
    }
    if data.expert is not None:
        policies["scripted"] = Scripted(load_class(data.expert))
    with _progress() as report:
        return evaluate(
            policies,
            make_environment,
            manifest,
            evaluation,
            settings={**settings, "planner": asdict(planner), "model": asdict(model.config)},
            on_step=report,
        )


def save_evaluation(result: Evaluation, folder: Path) -> None:
    """Write ``evaluation.json``, ``table.md``, the task list and a video per recorded task into ``folder``."""
    for video in (file for file in folder.glob("*.webp") if _VIDEO.fullmatch(file.name)):
        video.unlink()  # of an earlier evaluation
    result.save(folder / "evaluation.json")
    result.manifest.save(folder / "tasks.json")
    (folder / "table.md").write_text(result.markdown())
    for policy in result.policies:
        for recording in policy.recordings:
            outcome = next(outcome for outcome in policy.outcomes if outcome.task == recording.task)
            verdict = "solved" if outcome.success else "failed"
            save_video(folder / f"{policy.name}-{recording.task:03d}-{verdict}.webp", recording)


def results_folder(weights: str, name: str) -> Path:
    """Where what is found out about weights goes: beside their folder, or under ``runs`` for weights from elsewhere."""
    folder = resolve(weights, [])
    if folder == Path(weights).expanduser() and not weights.startswith(OFFICIAL):
        return folder.absolute().parent / name
    return Path("runs") / re.sub(r"[^\w.-]+", "-", weights) / name


def refuse_other_split(folder: Path, weights: str, split: str) -> None:
    """``FileExistsError`` rather than put tasks of another split in the place of these weights' evaluation."""
    file = folder / "evaluation.json"
    if file.is_file():
        found = read_evaluation(file)
        if found["settings"].get("fingerprint") == weights and found["tasks"]["split"] != split:
            raise FileExistsError(
                f"{file}: found these weights' evaluation on {found['tasks']['split']} episodes, which one on {split} "
                "episodes would replace; give another folder, --out"
            )


def save_video(path: Path, recording: Recording, *, scale: int = 3, frames_per_second: int = 10) -> None:
    """Write an animated WebP: what the camera saw, beside the goal."""
    goal = np.broadcast_to(recording.goal, recording.frames.shape)
    gap = np.full((*recording.frames.shape[:2], 2, 3), 128, np.uint8)
    clip = np.concatenate([recording.frames, gap, goal], axis=2)
    pictures = [
        Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale), Image.Resampling.NEAREST)
        for frame in clip
    ]
    first, *rest = pictures
    first.save(path, save_all=True, append_images=rest, duration=1000 // frames_per_second, loop=0, quality=80)


def check_fit(model: WorldModel, data: EpisodeDataModule) -> None:
    """Raise ``ValueError`` unless the model was made for such frames and actions."""
    found = {"image_size": data.image_size, "frame_skip": data.window.frame_skip, "action_dim": data.action_dim}
    for name, value in found.items():
        expected = getattr(model.config, name)
        if value != expected:
            raise ValueError(f"{name}: found {value} in the data, expected the model's {expected}; set it in the data")


def _bounds(data: EpisodeDataModule) -> tuple[Any, Any]:
    return data.statistics.action_low, data.statistics.action_high


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per policy."""
    with Progress() as bars:
        rows: dict[str, Any] = {}

        def report(policy: str, done: int, total: int) -> None:
            if policy not in rows:
                rows[policy] = bars.add_task(policy, total=total)
            bars.update(rows[policy], completed=done)

        yield report
