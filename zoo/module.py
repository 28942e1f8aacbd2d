"""The one training step and optimiser of everything here; each family's folder has a thin, named subclass.

Shape letters as in ``jepakit.zoo.base``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from jepakit.zoo.base import WorldModel
from jepakit.zoo.config import parse_config, plain_config
from jepakit.zoo.files import load_strict
from jepakit.zoo.registry import lookup
from jepakit.zoo.trainable import Losses, Trainable
from jepakit.zoo.weights import read_checkpoint, save_pretrained

M = TypeVar("M", bound="TrainingModule")

_NO_PREDICTOR = 1e30


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW over all parameters; linear warm-up over a fraction of the steps, then a cosine to zero, per step."""

    lr: float = 5e-5
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.lr <= 0.0 or self.weight_decay < 0.0:
            raise ValueError(f"optimizer: found lr {self.lr}, weight_decay {self.weight_decay}, expected > 0 and >= 0")
        if not 0.0 <= self.warmup_fraction <= 1.0:
            raise ValueError(f"optimizer.warmup_fraction: found {self.warmup_fraction}, expected between 0 and 1")


class TrainingModule(L.LightningModule):
    """Trains a ``Trainable``: the only training step, logging and optimiser of the zoo."""

    #: Of the config, what must be as the data module has it.
    data_fields: ClassVar[tuple[str, ...]] = ("frame_skip", "action_dim")

    def __init__(self, model: Trainable, optimizer: OptimizerConfig | Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.optimizer_config = parse_config(OptimizerConfig, optimizer, where="optimizer")
        settings = {"config": plain_config(model.config), "optimizer": plain_config(self.optimizer_config)}
        self.save_hyperparameters(settings)
        self._seed = 0  # of a fit
        self._encoder_first = model.encoder_alone  # whether the fit began, or will, with an encoder to train

    # -- saving and loading ----------------------------------------------------------------------------------------
    def save_pretrained(self, directory: str | Path) -> Path:
        """Write the model and its config; see ``jepakit.zoo.weights.save_pretrained``."""
        return save_pretrained(self.model, directory)

    @classmethod
    def from_pretrained(cls: type[M], source: str | Path, *, revision: str | None = None) -> M:
        """Load a saved model of this class, in eval mode; see ``jepakit.zoo.from_pretrained``.

        Raises ``ValueError`` for a checkpoint of another family.
        """
        checkpoint = read_checkpoint(source, revision=revision)
        family = lookup(checkpoint.name).module_class()
        if not issubclass(family, cls):
            raise ValueError(
                f"{checkpoint.source}: found a checkpoint of {family.__name__}, expected {cls.__name__}; "
                f"load it with {family.__name__}.from_pretrained or jepakit.zoo.from_pretrained"
            )
        build: Callable[..., M] = family  # every family's class takes its config
        module = build(config=checkpoint.config)
        load_strict(module.model, checkpoint.tensors, source=checkpoint.source)
        return module.eval()

    # -- training ---------------------------------------------------------------------------------------------------
    def setup(self, stage: str) -> None:
        """Check the data against the model's config; before training, adopt the data's statistics.

        A checkpoint that is resumed brings its own statistics, restored after this, and says how its fit began.
        """
        spec = getattr(self.trainer.datamodule, "spec", None)  # type: ignore[attr-defined]
        if spec is not None:
            self._check_data(spec)
        statistics = getattr(self.trainer.datamodule, "statistics", None)  # type: ignore[attr-defined]
        if stage == "fit" and statistics is not None:
            self.model.set_statistics(statistics)
        if stage == "fit":
            self._encoder_first = self.model.encoder_alone

    def _check_data(self, spec: object) -> None:
        wrong = [
            f"{name}: the data have {getattr(spec, name)}, the model expects {getattr(self.model.config, name)}"
            for name in self.data_fields
            if getattr(spec, name) != getattr(self.model.config, name)
        ]
        if wrong:
            raise ValueError(f"data and model disagree: {'; '.join(wrong)}; change the config of one of the two")

    def configure_model(self) -> None:
        """Under Lightning's ``ModelParallelStrategy``, let the processes share parameters and optimiser (FSDP2)."""
        if self.device_mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        if not isinstance(self.model, FSDPModule):
            fully_shard(self.model, mesh=self.device_mesh["data_parallel"])
            register_fsdp_forward_method(self.model, "losses")

    def require_whole(self, owner: str) -> None:
        """Raise ``ValueError`` if processes share the parameters, for a callback that reads the model."""
        if self.device_mesh is not None:
            raise ValueError(
                f"{owner}: found a model whose parameters the processes share, expected a whole one; train with ddp, "
                "or remove the callback and use 'lightning probe' and 'lightning publish' on the saved weights"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember which schedule the fit has."""
        checkpoint["encoder_first"] = self._encoder_first

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with this module's settings where they differ from the checkpoint's, and say so."""
        self._encoder_first = checkpoint.get("encoder_first", True)  # earlier versions' always was
        before, now = (_flat(settings) for settings in (checkpoint.get("hyper_parameters", {}), self.hparams))
        changed = [f"{key} {before[key]} is now {now[key]}" for key in before if now.get(key) != before[key]]
        if changed:
            rank_zero_warn(f"the checkpoint was trained with other settings: {'; '.join(changed)}")
        config = self.optimizer_config
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                group["lr"] *= config.lr / group["initial_lr"]
                group.update(initial_lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        for state in checkpoint.get("lr_schedulers", []):
            state["base_lrs"] = [config.lr for _ in state["base_lrs"]]

    def _pretrain_steps(self) -> int:
        """Steps of this fit that train the encoder alone: none where it began with a trained one."""
        return self.model.config.pretrain_steps if self._encoder_first else 0

    def on_fit_start(self) -> None:
        """Train in train mode, also what ``from_pretrained`` gave in eval mode."""
        self.train()
        self._seed = torch.initial_seed()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """One step; returns the loss and the model's detached outputs, which callbacks read.

        Dropout draws from a stream of (seed, process, step, batch): a resumed training goes on as if never stopped.
        """
        place = (self._seed, self.global_rank, self.global_step, batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
        return self._step("train", batch, self._draw(batch_idx))

    def _draw(self, batch_idx: int) -> int:
        """Number of a batch's random draws: the step's or, with accumulated gradients, one for every batch of it."""
        batches = self.trainer.accumulate_grad_batches
        return self.global_step * batches + batch_idx % batches

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """As training, with the same random directions every time."""
        return self._step("val", batch, 0)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """As validation, on the test episodes."""
        return self._step("test", batch, 0)

    def _step(self, stage: str, batch: dict[str, Tensor], step: int) -> dict[str, Any]:
        """Losses of a batch, logged; what trains the encoder alone is no ``loss`` but an ``encoder_loss``."""
        losses = self.model.losses(batch, step)
        how: dict[str, Any] = {"batch_size": batch["action"].shape[0], "sync_dist": stage != "train"}
        name = "encoder_loss" if self.model.encoder_alone else "loss"
        self.log(f"{stage}/{name}", losses.total.detach(), prog_bar=True, **how)
        self.log_dict({f"{stage}/{term}": value.detach() for term, value in losses.terms.items()}, **how)
        return {"loss": losses.total, "outputs": {name: value.detach() for name, value in losses.outputs.items()}}

    def on_validation_epoch_end(self) -> None:
        """While the encoder is trained alone, show callbacks a ``val/loss`` far above any, lower every time.

        To a checkpoint any model with a trained predictor is then better, and early stopping waits for one.
        """
        if self.model.encoder_alone:
            self.log("val/loss", _NO_PREDICTOR / (1 + self.global_step), logger=False, sync_dist=True)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Tell the model after each step."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.model.step_done(self.global_step + 1)  # Lightning counts this step after returning from here

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what is trained, and its schedule: one cycle, or one for the encoder and one for the rest."""
        config = self.optimizer_config
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError(
                "trainer: found no end of training, expected max_epochs or max_steps; the schedule needs it"
            )
        pretrain = self._pretrain_steps()
        if pretrain >= steps and not getattr(self.trainer, "fast_dev_run", False):  # that one tries the encoder alone
            raise ValueError(
                f"trainer: found {int(steps)} steps in all, {pretrain} of them for the encoder alone; expected steps "
                "that are left for the predictor: raise trainer.max_steps or max_epochs, or lower the encoder's"
            )
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.device.type == "cpu" or None,  # 2 ms instead of 10 for a small model; elsewhere torch's choice
        )

        def factor(step: int) -> float:
            pretrain = self._pretrain_steps()  # now that a checkpoint of sharded processes is restored, too
            phase, length = (step, pretrain) if step < pretrain else (step - pretrain, int(steps) - pretrain)
            return warmup_cosine(phase, steps=length, warmup_fraction=config.warmup_fraction)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted name; lists as tuples, because reading them back makes the one of the other."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": found for inner, found in _flat(value).items()})
        else:
            flat[key] = tuple(value) if isinstance(value, list) else value
    return flat


class WorldModelModule(TrainingModule):
    """Trains any ``WorldModel`` and has its verbs."""

    data_fields = ("image_size", "frame_skip", "action_dim", "history", "predictions")
    model: WorldModel

    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """See ``WorldModel.encode``."""
        return self.model.encode(observation)

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """See ``WorldModel.predict``."""
        return self.model.predict(latents, actions)

    def rollout(self, latents: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """See ``WorldModel.rollout``."""
        return self.model.rollout(latents, past_actions, candidates)

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """See ``WorldModel.losses``."""
        return self.model.losses(batch, step)

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """See ``WorldModel.goal_cost``."""
        return self.model.goal_cost(predicted, goal)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Latents (B, T, N, D) and their predictions (B, T-1, N, D), with the episode and start of every window."""
        outputs = self.model.losses(batch).outputs
        return {**outputs, "episode": batch["episode"], "start": batch["start"]}


def warmup_cosine(step: int, *, steps: int, warmup_fraction: float) -> float:
    """Factor on the learning rate for optimiser step ``step`` of ``steps``: linear warm-up, cosine to zero."""
    warmup = math.ceil(steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
