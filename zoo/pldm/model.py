"""PLDM (arXiv 2502.14819): a latent world model kept from collapsing by variance and covariance terms.

Shape letters: B batch, T frames, H history frames, D latent width, A action-block width. Symbols: z latent, a
embedded action, ẑ predicted latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.config import parse_config
from jepakit.zoo.layers.heads import InverseDynamics
from jepakit.zoo.layers.predictor import Predictor
from jepakit.zoo.layers.transformer import Cache
from jepakit.zoo.losses import vicreg
from jepakit.zoo.pldm.config import PLDMConfig
from jepakit.zoo.ranks import gather
from jepakit.zoo.trainable import Losses
from jepakit.zoo.vector import VectorModel

_REGULARISERS = {
    "variance": vicreg.variance,
    "covariance": vicreg.covariance,
    "time_similarity": vicreg.time_similarity,
    "time_variance": vicreg.time_variance,
    "time_covariance": vicreg.time_covariance,
}


class ResidualPredictor(Predictor):
    """ẑ_{t+1} = z_t + f(z_t, a_t) with f of one hidden layer: every position reads its own latent only."""

    def __init__(self, latent_dim: int, *, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(2 * latent_dim, hidden)
        self.contract = nn.Linear(hidden, latent_dim)

    def modulations(self, conditions: Tensor) -> list[Tensor]:
        """See ``Predictor``: the embedded actions themselves."""
        return [conditions]

    def extend(
        self, latents: Tensor, modulations: Sequence[Tensor], before: Cache, *, only: slice | None
    ) -> tuple[Tensor, Cache]:
        """See ``Predictor``; earlier frames do not matter."""
        z, a = (part if only is None else part[:, only] for part in (latents, modulations[0]))
        return z + self.contract(F.relu(self.expand(torch.cat([z, a], dim=-1)))), []


class PLDMModel(VectorModel):
    """Encoder and predictor, trained together by prediction error and up to six further terms."""

    name: ClassVar[str] = "pldm"
    config: PLDMConfig

    def __init__(self, config: PLDMConfig | Mapping[str, Any]) -> None:
        config = parse_config(PLDMConfig, config, where="config")
        super().__init__(config)
        width = config.latent_dim
        if config.predictor == "recurrent":
            self.predictor = ResidualPredictor(width, hidden=config.recurrent_hidden)
            self.prediction_projector = nn.Identity()
        if config.inverse_dynamics_weight > 0.0:
            hidden = config.inverse_dynamics_hidden
            self.inverse_dynamics = InverseDynamics(width, hidden=hidden, width_out=config.block_width)

    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Compute the training objective on windows of 2 to ``history`` + 1 frames; nothing in it is random."""
        self.check_batch(batch)
        return self.objective(self.encode(batch).squeeze(2), batch["action"][:, :-1])

    def objective(self, z: Tensor, actions: Tensor) -> Losses:
        """Mean (ẑ_{t+1} − z_{t+1})² + Σ weight · term(z), of latents z (B, T, D) and raw blocks (B, T-1, A).

        No term stops gradients. The inverse dynamics predict *standardised* actions. In training, statistics over the
        batch are those of all ranks together.
        """
        predicted, following = self.predict_window(z, self.embed_actions(actions))
        prediction = F.mse_loss(predicted, following)
        weights = {term: weight for term, weight in self.config.weights.items() if weight > 0.0}
        batch = gather(z) if self.training else z
        terms = {term: function(batch) for term, function in _REGULARISERS.items() if term in weights}
        if "inverse_dynamics" in weights:
            guessed = self.inverse_dynamics(z[:, :-1], z[:, 1:])
            terms["inverse_dynamics"] = F.mse_loss(guessed, self.normalise_actions(actions))
        total = prediction
        for term, value in terms.items():
            total = total + weights[term] * value
        return Losses(
            total=total,
            terms={"prediction": prediction, **terms},
            outputs={"latents": z.unsqueeze(2), "predictions": predicted[:, : z.shape[1] - 1].unsqueeze(2)},
        )

    def predict_window(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """See ``VectorModel``; the recurrent predictor is unrolled from the first frame and reads what it predicts."""
        if self.config.predictor == "transformer":
            return super().predict_window(z, a)
        unrolled = [z[:, :1]]
        for now in range(a.shape[1]):
            unrolled.append(self.predict_next(unrolled[-1], a[:, now : now + 1]))
        return torch.cat(unrolled[1:], dim=1), z[:, 1:]
