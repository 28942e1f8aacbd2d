"""C-JEPA as a Lightning module."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from jepakit.zoo.cjepa.config import CJEPAConfig
from jepakit.zoo.cjepa.model import CJEPAModel
from jepakit.zoo.cjepa.oracle import OracleEncoder
from jepakit.zoo.config import parse_config
from jepakit.zoo.module import OptimizerConfig, WorldModelModule

_PAPER_SIZE = CJEPAConfig()
_PAPER_OPTIMIZER = OptimizerConfig(lr=5e-4)


class CJEPA(WorldModelModule):
    """C-JEPA (arXiv 2602.11389): see ``CJEPAConfig`` for its sizes and ``CJEPAModel`` for its equations.

    Slot Attention is trained for the first ``encoder_steps`` of a fit unless ``encoder_weights`` names the folder of a
    trained C-JEPA, whose object encoder is taken.
    """

    model: CJEPAModel

    def __init__(
        self,
        config: CJEPAConfig = _PAPER_SIZE,
        optimizer: OptimizerConfig = _PAPER_OPTIMIZER,
        encoder_weights: str | None = None,
    ) -> None:
        config = parse_config(CJEPAConfig, config, where="config")
        if encoder_weights is not None:
            if config.encoder != "slot_attention":
                raise ValueError(
                    f"encoder_weights: found {encoder_weights!r} for the object encoder {config.encoder!r}, which has "
                    "none; expected nothing, or the encoder 'slot_attention'"
                )
            config = dataclasses.replace(config, encoder_steps=0)
        super().__init__(CJEPAModel(config), optimizer)
        self.encoder_weights = encoder_weights

    def setup(self, stage: str) -> None:
        """Check that the data have what the object encoder reads; before training, get the encoder ready."""
        super().setup(stage)
        source = getattr(self.trainer.datamodule, "source", None)  # type: ignore[attr-defined]
        objects = self.model.objects
        if source is not None and objects.reads != "pixels":
            if objects.reads not in source.columns:
                remedy = "set features of the data" if objects.reads == "features" else "choose another object encoder"
                raise ValueError(
                    f"{source.path}: column {objects.reads!r} not found, which the object encoder "
                    f"{objects.config.encoder!r} reads; it has {', '.join(source.columns)}; {remedy}"
                )
            objects.check_row(tuple(source.columns[objects.reads].shape), where=str(source.path))
        if stage == "fit" and self.encoder_weights is not None and not objects.trained:
            objects.load(self.encoder_weights)
        if stage == "fit" and source is not None and isinstance(objects.slots, OracleEncoder):
            episodes = self.trainer.datamodule.parts["train"]  # type: ignore[attr-defined]
            rows = np.concatenate([source.offsets[e] + np.arange(source.lengths[e]) for e in episodes])
            states = np.asarray(source.read("state", rows), np.float32)
            objects.slots.fit(torch.from_numpy(states))

    def _draw(self, batch_idx: int) -> int:
        """While the object encoder is trained nothing is drawn: its schedule is one of steps."""
        return self.global_step if self.model.encoder_alone else super()._draw(batch_idx)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """As every world model's, with nothing hidden; no predictions before the encoder is trained."""
        model = self.model
        model.check_batch(batch)
        z = model.encode(batch)
        found = {"latents": z, "episode": batch["episode"], "start": batch["start"]}
        if model.encoder_alone:
            return found
        a = model.embed_actions(batch["action"])
        seen = [slice(max(0, end - model.config.history), end) for end in range(1, z.shape[1])]
        return {**found, "predictions": torch.stack([model.predict_next(z[:, to], a[:, to]) for to in seen], dim=1)}

    def on_fit_start(self) -> None:
        """Refuse to train on an object encoder that never was; a resumed checkpoint has brought its own by now."""
        self.model.objects.require_trained()
        super().on_fit_start()
