"""LeWM (arXiv 2603.19312): a latent world model trained end to end from pixels with two loss terms.

Shape letters: B batch, T frames, D latent width, P directions. Symbols: z latent, a action, ẑ predicted latent, λ
``lambda_``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from jepakit.zoo.config import parse_config
from jepakit.zoo.lewm.config import LeWMConfig
from jepakit.zoo.losses.sigreg import random_directions, sigreg
from jepakit.zoo.trainable import Losses
from jepakit.zoo.vector import VectorModel


class LeWMModel(VectorModel):
    """Encoder and predictor, trained together by prediction error and SIGReg."""

    name: ClassVar[str] = "lewm"
    config: LeWMConfig

    def __init__(self, config: LeWMConfig | Mapping[str, Any]) -> None:
        super().__init__(parse_config(LeWMConfig, config, where="config"))

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Compute the training objective on windows of 2 to ``history`` + 1 frames; see ``objective``."""
        self.check_batch(batch)
        z = self.encode(batch).squeeze(2)
        a = self.embed_actions(batch["action"][:, :-1])
        directions = random_directions(
            self.config.latent_dim, self.config.directions, seed=self.config.seed, step=step, device=z.device
        )
        return self.objective(z, a, directions)

    def objective(self, z: Tensor, a: Tensor, directions: Tensor) -> Losses:
        """Mean (ẑ_{t+1} − z_{t+1})² + λ · SIGReg(z), every position predicted from those up to it.

        Of latents z (B, T, D) and embedded actions a (B, T-1, D), with SIGReg's ``directions`` (D, P). Neither
        term stops gradients.
        """
        predicted, following = self.predict_window(z, a)
        prediction = F.mse_loss(predicted, following)
        regulariser = sigreg(z, directions, knots=self.config.knots, across_ranks=self.training)
        return Losses(
            total=prediction + self.config.lambda_ * regulariser,
            terms={"prediction": prediction, "sigreg": regulariser},
            outputs={"latents": z.unsqueeze(2), "predictions": predicted[:, : z.shape[1] - 1].unsqueeze(2)},
        )
