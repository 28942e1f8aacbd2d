"""PLDM's sizes and loss weights as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jepakit.zoo.vector import VectorModelConfig


@dataclass(frozen=True, kw_only=True)
class PLDMConfig(VectorModelConfig):
    """PLDM as LeWM's authors compare it: LeWM's architecture, the weights they found on Push-T.

    ``*_weight`` weighs a term against the prediction error; terms of weight 0 are not computed, and only a positive
    ``inverse_dynamics_weight`` adds that network, of one layer of ``inverse_dynamics_hidden``. ``predictor:
    recurrent`` is the original paper's kind, of one layer of ``recurrent_hidden``; it reads the ``predictor_*``
    fields and ``dropout`` nowhere.
    """

    variance_weight: float = 18.0
    covariance_weight: float = 12.0
    time_similarity_weight: float = 0.2
    time_variance_weight: float = 0.7
    time_covariance_weight: float = 0.0
    inverse_dynamics_weight: float = 0.0
    inverse_dynamics_hidden: int = 512
    predictor: Literal["transformer", "recurrent"] = "transformer"
    recurrent_hidden: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefix and self.predictor == "recurrent":
            raise ValueError(f"prefix: found {self.prefix} with a recurrent predictor, expected 0")
        for term, weight in self.weights.items():
            if weight < 0.0:
                raise ValueError(f"{term}_weight: found {weight}, expected at least 0")

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms beside the prediction error, by the names under which they are logged."""
        return {
            "variance": self.variance_weight,
            "covariance": self.covariance_weight,
            "time_similarity": self.time_similarity_weight,
            "time_variance": self.time_variance_weight,
            "time_covariance": self.time_covariance_weight,
            "inverse_dynamics": self.inverse_dynamics_weight,
        }
