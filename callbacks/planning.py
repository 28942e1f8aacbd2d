"""How often does planning work, while the model trains: a few validation tasks every few epochs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from jepakit.callbacks.frames import AT_ONCE
from jepakit.callbacks.probe import Probe
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning.cem import CEMConfig
from jepakit.planning.evaluation.protocol import EvaluationConfig, evaluate
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo.base import WorldModel

QUICK = PlannerConfig(
    cem=CEMConfig(samples=64, elites=8, iterations=4, noise_exponent=2.0),
    bounded=True,
)


class PlanningProbe(Probe):
    """Success rate on ``tasks`` validation tasks with goals ``offset`` steps ahead, by a quick search unless told.

    Reported: ``success`` and its Wilson interval, ``success_low`` and ``success_high``. ``probe/planning/success`` can
    be what a checkpoint or early stopping watches (``checkpoint.monitor``, with ``checkpoint.every_n_epochs`` equal to
    this ``every_n_epochs``, by default only at the end, and ``checkpoint.save_on_train_epoch_end``). With few tasks the
    interval is wide: 20 tasks cannot tell 60 % from 80 %. What was chosen this way is judged by ``lightning evaluate``
    on test tasks.
    """

    name: ClassVar[str] = "planning"
    in_environment: ClassVar[bool] = True

    def __init__(
        self,
        every_n_epochs: int = 0,
        tasks: int = 20,
        offset: int = 25,
        planner: PlannerConfig = QUICK,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_epochs)
        self.require(least=1, tasks=tasks)
        self.tasks = tasks
        self.offset = offset
        self.planner = planner
        self.seed = seed

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; the tasks are the same every time."""
        tasks = tasks_of(data, TaskConfig(count=self.tasks, offset=self.offset, split="val", seed=self.seed))
        policy = self.planner.policy(TorchBackend(model, environments_per_call=AT_ONCE))
        quiet = EvaluationConfig(seed=self.seed, latency_repeats=0)
        (found,) = evaluate({model.name: policy}, environment_factory(data), tasks, quiet).policies
        low, high = found.interval95
        return {"success": found.rate, "success_low": low, "success_high": high}
