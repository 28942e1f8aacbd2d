"""DINO-WM as a Lightning module."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from jepakit.zoo.dinowm.config import DINOWMConfig
from jepakit.zoo.dinowm.model import DINOWMModel
from jepakit.zoo.frozen_features import FrozenFeatures, ReadsFrozenFeatures
from jepakit.zoo.module import OptimizerConfig, WorldModelModule

_PAPER_SIZE = DINOWMConfig()
_PAPER_OPTIMIZER = OptimizerConfig(lr=5e-4)
_FRAMES = 1024  # that convolutions are standardised by


class DINOWM(WorldModelModule, ReadsFrozenFeatures):
    """DINO-WM (arXiv 2411.04983): see ``DINOWMConfig`` for its sizes and ``DINOWMModel`` for its equations.

    ``encoder_weights`` says where the frozen encoder's weights come from when a training starts: a folder or Hub id
    with a DINOv2 or ViT, or for the encoder ``cnn`` the folder of a LeWM or PLDM trained here. A checkpoint holds
    them, so that a model that was loaded needs no source. As in ``LeWM``, ``config`` and ``optimizer`` may also be
    plain mappings.
    """

    model: DINOWMModel

    def __init__(
        self,
        config: DINOWMConfig = _PAPER_SIZE,
        optimizer: OptimizerConfig = _PAPER_OPTIMIZER,
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__(DINOWMModel(config), optimizer)
        self.encoder_weights = encoder_weights

    def setup(self, stage: str) -> None:
        """Before training, fetch the encoder's weights."""
        super().setup(stage)
        if stage == "fit":
            self.prepare_encoder(self.trainer.datamodule)  # type: ignore[attr-defined]

    def fetch_encoder(self) -> None:
        """Load ``encoder_weights`` unless the model has its encoder already."""
        if self.encoder_weights is not None and not self.model.encoder.loaded:
            self.model.load_encoder(self.encoder_weights)

    def prepare_encoder(self, data: Any) -> None:  # noqa: ANN401 (a data module, or None)
        """Fetch the encoder and let it see frames of the training episodes, which convolutions are standardised by."""
        self.fetch_encoder()
        source = getattr(data, "source", None)
        if source is not None and self.model.encoder.loaded and self.model.config.encoder == "cnn":
            episodes = data.parts["train"]
            rows = np.concatenate([source.offsets[e] + np.arange(source.lengths[e]) for e in episodes])
            some = rows[np.linspace(0, len(rows) - 1, min(_FRAMES, len(rows))).astype(int)]
            self.model.fit_tokens(torch.from_numpy(source.read("pixels", some)))

    def frozen_features(self, data: Any) -> FrozenFeatures:  # noqa: ANN401 (a data module)
        """The encoder's tokens, see ``FeatureCache``."""
        self.prepare_encoder(data)
        model, config = self.model, self.model.config
        model.require_encoder()
        identity = {
            "encoder": model.encoder.fingerprint(),
            "image_size": config.image_size,
            "encoder_size": config.encoder_size,
            "tokens": config.tokens,
        }
        return FrozenFeatures(
            name=config.encoder,
            network=model,
            shape=(config.tokens, config.token_width),
            identity=identity,
            compute=lambda observation: model.features(observation)[0],
        )

    def on_fit_start(self) -> None:
        """Refuse to train on a random encoder; a resumed checkpoint has brought its own by now."""
        self.model.require_encoder()
        super().on_fit_start()
