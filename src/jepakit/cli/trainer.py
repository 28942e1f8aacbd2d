"""Lightning's Trainer with what `lightning` does beside training: evaluate, probe, export, publish."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from rich.console import Console

from jepakit.callbacks import Probe
from jepakit.cli.evaluation import (
    EvaluationPlannerConfig,
    check_fit,
    evaluate_model,
    refuse_other_split,
    results_folder,
    save_evaluation,
)
from jepakit.cli.held_out import check_held_out
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import TaskConfig, tasks_of
from jepakit.export.bundle import Bundle, Precision
from jepakit.hub import resolve
from jepakit.planning.evaluation.protocol import EvaluationConfig
from jepakit.planning.evaluation.report import Evaluation
from jepakit.results import read_training
from jepakit.zoo import from_pretrained
from jepakit.zoo.files import fingerprint
from jepakit.zoo.publish import Publication, check_place, publish
from jepakit.zoo.weights import TRAINING_FILE, load_model


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Everything ``evaluate`` reads from the configuration, so that one file serves ``fit`` and ``evaluate``."""

    planner: EvaluationPlannerConfig
    tasks: TaskConfig
    evaluation: EvaluationConfig


class Trainer(L.Trainer):
    """Lightning's Trainer, with evaluation in the environment."""

    evaluation_settings = EvaluationSettings(
        planner=EvaluationPlannerConfig(), tasks=TaskConfig(), evaluation=EvaluationConfig()
    )

    def evaluate(
        self, model: L.LightningModule, datamodule: EpisodeDataModule, weights: str, out: str | None = None
    ) -> Evaluation:
        """Success rate of planning in the environment, beside random, stay and scripted policies.

        It runs on the trainer's device, or on the CPU if processes share the tasks.

        Args:
            model: replaced by the weights, which know their own configuration.
            datamodule: whose held-out episodes the tasks are drawn from.
            weights: folder or Hub id of saved weights.
            out: folder for the result; by default ``evaluation`` beside the weights' folder, for weights from elsewhere
                in a folder of their name under ``runs``.
        """
        datamodule.prepare_data()
        datamodule.setup("test")
        settings = self.evaluation_settings
        world = from_pretrained(weights).model
        judged = fingerprint(world)
        folder = Path(out) if out else results_folder(weights, "evaluation")
        manifest = tasks_of(datamodule, settings.tasks)
        if out is None:
            refuse_other_split(folder, judged, manifest.split)
        held_out = check_held_out([weights, *settings.planner.trained_weights()], datamodule)
        alone = settings.evaluation.workers == 1 and settings.evaluation.cluster is None
        device = self.strategy.root_device if alone else torch.device("cpu")
        result = evaluate_model(
            world.to(device),
            datamodule,
            planner=settings.planner,
            manifest=manifest,
            evaluation=settings.evaluation,
            settings={"weights": weights, "fingerprint": judged, "device": str(device), "held_out": held_out},
        )
        Console().print(result.rich_table())
        save_evaluation(result, folder)
        print(f"wrote {folder}")
        return result

    def probe(
        self, model: L.LightningModule, datamodule: EpisodeDataModule, weights: str, out: str | None = None
    ) -> dict[str, dict[str, float]]:
        """Measure a world model with the probes among ``trainer.callbacks``, as at the end of a fit.

        Args:
            model: replaced by the weights, which know their own configuration.
            datamodule: whose held-out episodes the probes read.
            weights: folder or Hub id of saved weights.
            out: folder for numbers and pictures; by default ``probes`` beside the weights' folder, where the numbers
                take the place of those that training found at the same step, for weights from elsewhere in a folder of
                their name under ``runs``.
        """
        probes = [callback for callback in self.callbacks if isinstance(callback, Probe)]  # type: ignore[attr-defined]
        if not probes:
            raise ValueError(
                "trainer.callbacks: found no probe, expected at least one: "
                "--trainer.callbacks+=jepakit.callbacks.FidelityProbe"
            )
        datamodule.prepare_data()
        datamodule.setup("test")
        world = load_model(weights).to(self.strategy.root_device)
        check_fit(world, datamodule)
        held_out = check_held_out([weights], datamodule)
        folder = Path(out) if out else results_folder(weights, "probes")
        record = resolve(weights, [TRAINING_FILE]) / TRAINING_FILE
        step = read_training(record)["steps"] if record.is_file() else 0
        found = {probe.name: probe.run(world, datamodule, folder, step=step) for probe in probes}
        print(json.dumps(found, indent=1))
        print(f"test episodes kept from training: {held_out}")
        print(f"wrote {folder}")
        return found

    def publish(
        self,
        model: L.LightningModule,
        datamodule: EpisodeDataModule,
        weights: str,
        repo: str,
        private: bool = False,
        revision: str | None = None,
        with_bundle: bool = False,
        licence: str = "apache-2.0",
        dry_run: str | None = None,
    ) -> Publication:
        """Publish weights with their card, evaluation and training's record on the Hugging Face Hub, in one commit.

        Args:
            model: replaced by the weights, which know their own configuration.
            datamodule: whose held-out episodes a bundle is verified on.
            weights: folder of saved weights.
            repo: the Hub's organisation/name.
            private: whether only its members may see it, if it is new.
            revision: branch, made if needed.
            with_bundle: also export ONNX graphs with the planner of the configuration.
            licence: of the weights, the Hub's short name.
            dry_run: a new folder to write everything to, in place of sending it.
        """
        check_place(None if dry_run is None else Path(dry_run))
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle" if with_bundle else None
            if bundle is not None:
                self.export(model, datamodule, weights, str(bundle), licence=licence)
            found = publish(
                weights,
                repo,
                bundle=bundle,
                private=private,
                revision=revision,
                licence=licence,
                dry_run=None if dry_run is None else Path(dry_run),
            )
        for name, size in found.files.items():
            print(f"{size:>10} {name}")
        print(f"published {found.url}" if found.url else f"wrote {dry_run}; nothing was sent")
        return found

    def export(
        self,
        model: L.LightningModule,
        datamodule: EpisodeDataModule,
        weights: str,
        out: str,
        precision: Precision = "fp32",
        opset: int = 20,
        horizon: int | None = None,
        queries: int = 16,
        licence: str = "not stated",
        overwrite: bool = False,
    ) -> Bundle:
        """Write a model as a bundle of ONNX graphs for planning without PyTorch, verified against PyTorch.

        Args:
            model: replaced by the weights, which know their own configuration.
            datamodule: whose held-out episodes the export is verified on.
            weights: folder or Hub id of saved weights.
            out: folder of the bundle.
            precision: of the matrix products.
            opset: of ONNX's operators.
            horizon: most blocks of a plan; by default the planner's.
            queries: planning problems to verify on; 0 leaves the data alone, for fp32 only.
            licence: of the weights, for manifest and card.
            overwrite: replace a bundle that is there.
        """
        from jepakit.cli.export import export_model  # needs the extra onnx, which training does not

        bundle = export_model(
            from_pretrained(weights).model,
            datamodule,
            Path(out),
            planner=self.evaluation_settings.planner,
            precision=precision,
            opset=opset,
            horizon=horizon,
            queries=queries,
            licence=licence,
            overwrite=overwrite,
        )
        print(json.dumps(bundle.manifest["verification"], indent=1))
        print(f"wrote {bundle.folder}")
        return bundle
