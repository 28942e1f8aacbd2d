"""LightningCLI's ``fit``, ``validate``, ``test``, ``predict``, and the subcommands of ``jepakit.cli.trainer``."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace, set_config_read_mode, set_parsing_settings
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from jepakit.callbacks import GracefulStop, NumericalGuard, RunEstimate
from jepakit.callbacks.folder import run_folder
from jepakit.callbacks.predictions import WritePredictions
from jepakit.checkpoints import FOLDER, LAST, AtomicCheckpointIO, KeepCurves, newest_checkpoint, newest_run
from jepakit.cli.evaluation import EvaluationPlannerConfig
from jepakit.cli.held_out import describe_data
from jepakit.cli.runtime import keep_freed_memory
from jepakit.cli.trainer import EvaluationSettings, Trainer
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import TaskConfig
from jepakit.planning.evaluation.files import write_json
from jepakit.planning.evaluation.protocol import EvaluationConfig
from jepakit.planning.evaluation.provenance import commit, machine, versions, without_query
from jepakit.zoo.module import TrainingModule
from jepakit.zoo.ranks import leave, whole_state
from jepakit.zoo.weights import TRAINING_FILE, save_pretrained

#: Subcommands that need a trained model.
_OF_A_CHECKPOINT = ("validate", "test", "predict")


class App(LightningCLI):
    """The command line; after ``fit`` the weights are saved in the format that ``from_pretrained`` reads."""

    def __init__(self, args: list[str], *, run: bool = True) -> None:
        self.arguments = args
        self._resume_from: Path | None = None  # the folder with the checkpoint, for --ckpt_path last
        super().__init__(
            TrainingModule,
            EpisodeDataModule,
            trainer_class=Trainer,
            trainer_defaults={"callbacks": [RichProgressBar(), RunEstimate(), GracefulStop()]},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"parser_mode": "omegaconf+"},
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands and ours."""
        return LightningCLI.subcommands() | {
            name: {"model", "datamodule"} for name in ("evaluate", "probe", "export", "publish")
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Checkpoints and the guard against numerical faults are always there: ``checkpoint.*``, ``guard.*``."""
        parser.add_lightning_class_args(NumericalGuard, "guard")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True})
        parser.add_class_arguments(EvaluationPlannerConfig, "planner")
        parser.add_class_arguments(TaskConfig, "tasks")
        parser.add_class_arguments(EvaluationConfig, "evaluation")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it was given; Lightning would put a checkpoint's settings in its place.

        ``TrainingModule.on_load_checkpoint`` says where the two differ.
        """

    def before_instantiate_classes(self) -> None:
        """Never unpickle a checkpoint; with ``--ckpt_path last``, find the run that goes on.

        Left open, ``weights_only`` would let Lightning unpickle a checkpoint behind an http address.
        """
        config = self.config.get(self.subcommand) if self.subcommand else None
        if config is None:
            return
        if "weights_only" in config:
            if config["weights_only"] is False:
                raise ValueError("weights_only: found false, expected true: a pickle may run anything; see SECURITY.md")
            config["weights_only"] = True
        self._check_callbacks(config.trainer)
        if self.subcommand == "fit" and config.ckpt_path == LAST:
            self._find_run(config, go_on=True)
        elif self.subcommand in _OF_A_CHECKPOINT:
            self._find_checkpoint(config)

    def _check_callbacks(self, trainer: Namespace) -> None:
        """Leave out of the callbacks that are always there what the configuration has itself, or does not want."""
        if trainer.enable_checkpointing is False:
            raise ValueError(
                "trainer.enable_checkpointing: found false, expected true: a training saves its state when it is "
                "interrupted; to keep no other checkpoints, set checkpoint.save_last false and checkpoint.save_top_k 0"
            )
        given = {callback.class_path.rpartition(".")[2] for callback in trainer.callbacks or []}
        if trainer.enable_progress_bar is False or any(name.endswith("ProgressBar") for name in given):
            given.add(RichProgressBar.__name__)
        always = self.trainer_defaults["callbacks"]
        self.trainer_defaults["callbacks"] = [one for one in always if type(one).__name__ not in given]

    def _find_checkpoint(self, config: Namespace) -> None:
        """Find what ``last`` stands for; ``ValueError`` rather than to judge a model that was never trained."""
        if config.ckpt_path == LAST:
            self._find_run(config, go_on=False)
            found = None if self._resume_from is None else newest_checkpoint(self._resume_from)
            config.ckpt_path = None if found is None else str(found)
        if config.ckpt_path is None:
            raise ValueError(
                f"ckpt_path: found no checkpoint for {self.subcommand}, expected one: "
                "--ckpt_path runs/…/checkpoints/last.ckpt, or last for the newest run's"
            )
        warnings.filterwarnings("ignore", message="The dirpath has changed")  # of checkpoints that are not written
        logger = config.trainer.logger
        settings = logger.init_args if isinstance(logger, Namespace) else None
        if settings is not None and getattr(settings, "version", None) is not None:
            # Not into the training's folder, whose curves would go.
            settings.version = os.path.join(_folder_of(settings.version), str(self.subcommand))

    def _find_run(self, config: Namespace, *, go_on: bool) -> None:
        """Find the newest run that has a checkpoint, and to ``go_on`` log into it; without one, a run begins."""
        logger = config.trainer.logger
        settings = logger.init_args if isinstance(logger, Namespace) else None
        if config.checkpoint.dirpath is not None:
            self._resume_from = Path(config.checkpoint.dirpath)
            return
        if settings is None or not {"save_dir", "name", "version"} <= vars(settings).keys():
            raise ValueError(
                "ckpt_path: found 'last' with a logger that numbers no folders, expected TensorBoardLogger or "
                "CSVLogger; set checkpoint.dirpath, or give the path of a checkpoint"
            )
        runs = Path(settings.save_dir) / (settings.name or "")
        version = newest_run(runs) if settings.version is None else settings.version
        if version is not None:
            self._resume_from = runs / _folder_of(version) / FOLDER
        if go_on:
            settings.version = version

    def before_predict(self) -> None:
        """Keep what is predicted."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks.append(WritePredictions())

    def before_evaluate(self) -> None:
        """Hand the settings of the configuration to the trainer."""
        self._hand_over("evaluate")

    def before_export(self) -> None:
        """Hand the settings of the configuration to the trainer."""
        self._hand_over("export")

    def before_publish(self) -> None:
        """Hand the settings of the configuration to the trainer."""
        self._hand_over("publish")

    def _hand_over(self, subcommand: str) -> None:
        config = self.config_init[subcommand]
        assert isinstance(self.trainer, Trainer)
        self.trainer.evaluation_settings = EvaluationSettings(
            planner=config["planner"], tasks=config["tasks"], evaluation=config["evaluation"]
        )

    def before_fit(self) -> None:
        """Go on from the checkpoint to go on from; write whole checkpoints; save the weights as soon as training ends.

        The last comes before any callback that looks at the weights could fail.
        """
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        config = self.config_init["fit"]
        if config["ckpt_path"] == LAST:
            found = None if self._resume_from is None else newest_checkpoint(self._resume_from)
            config["ckpt_path"] = None if found is None else str(found)
            for expected in ("Checkpoint directory .* exists", "Experiment logs directory .* exists"):
                warnings.filterwarnings("ignore", message=expected)
            print("no checkpoint yet: a new run" if found is None else f"going on from {found}")
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:0] = [LambdaCallback(on_fit_end=lambda *_: self._save()), KeepCurves(self.trainer.loggers)]

    def _save(self) -> None:
        """Write the trained weights beside the checkpoints."""
        folder = run_folder(self.trainer) / "weights"
        tensors = whole_state(self.model.model)
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            save_pretrained(self.model.model, folder, tensors=tensors)
            write_json(folder / TRAINING_FILE, self._record())
            print(f"wrote {folder}")

    def _record(self) -> dict[str, Any]:
        """What this training was, for whoever gets its weights."""
        return {
            "command": shlex.join(["lightning", *map(without_query, self.arguments)]),
            "seed": self.config[self.subcommand]["seed_everything"],
            "steps": self.trainer.global_step,
            "data": describe_data(self.datamodule),
            "machine": machine(),
            "versions": versions(),
            "commit": commit(),
        }


def _folder_of(version: str | int) -> str:
    """Name of a run's folder, as loggers have it."""
    return version if isinstance(version, str) else f"version_{version}"


def run_application(arguments: list[str]) -> App:
    """Parse ``arguments`` (the subcommand first) and run them; a wrong usage ends in ``SystemExit``."""
    keep_freed_memory()
    # LightningCLI warns of "args" when the process has command-line arguments too: here they are the same ones.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # tips and device lists
    warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")  # Lightning's own
    set_config_read_mode(fsspec_enabled=False)  # Lightning turns it on; a class_path is code, and none is fetched
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return App(arguments)


def run(arguments: list[str]) -> int:
    """Run one subcommand; returns the exit code."""
    run_application(arguments)
    leave()  # not after an error: others may never answer what is still being sent
    return 0
