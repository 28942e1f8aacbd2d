"""Slots that give back the patch features of a frozen encoder instead of pixels, for pictures of the real world.

In the manner of VideoSAUR (arXiv 2306.04829): a SlotMixer decoder and two losses. Tested on tiny features only; nothing
is known here about its results at the size of the paper.

Shape letters: B clips, T frames, N slots, D slot width, L patches of a g × g grid, E feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.layers.slot_attention import SlotEncoder
from jepakit.zoo.layers.slot_decoders import SlotMixer
from jepakit.zoo.trainable import Losses


class FeatureSlotAutoencoder(SlotEncoder):
    """Slots of frozen patch features: frames are (B, T, L, E), and so are reconstructions; masks are (B, T, N, L).

    ``grid`` is g. The decoder also predicts how similar every patch is to each patch of the next frame, weighed by
    ``similarity_weight`` at ``temperature`` (defaults of the authors' configuration for YouTube-VIS).
    """

    def __init__(
        self,
        *,
        grid: int,
        feature_dim: int,
        slots: int = 7,
        slot_dim: int = 64,
        hidden: int = 1024,
        iterations: int = 3,
        later_iterations: int = 2,
        similarity_weight: float = 0.1,
        temperature: float = 0.25,
    ) -> None:
        front = nn.Sequential(
            nn.LayerNorm(feature_dim), nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, slot_dim)
        )
        super().__init__(
            front,
            width_in=slot_dim,
            slots=slots,
            slot_dim=slot_dim,
            hidden=hidden,
            iterations=iterations,
            later_iterations=later_iterations,
        )
        self.similarity_weight, self.temperature = similarity_weight, temperature
        self.feature_dim = feature_dim
        self.decoder = SlotMixer(grid, slot_dim, hidden=hidden, width_out=feature_dim + grid**2)

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, L, E) mixed from slots (B, T, N, D), and the mixing weights (B, T, N, L)."""
        painted, masks = self._paint(slots)
        return painted[..., : self.feature_dim], masks

    def losses(self, frames: Tensor) -> Losses:
        """Mean squared error of the features plus the weighted temporal similarity loss (equations 2 to 4).

        Raises ``ValueError`` for clips of a single frame, which have no next one.
        """
        if frames.shape[1] < 2:
            raise ValueError(f"features: found clips of {frames.shape[1]} frame, expected at least 2")
        slots = self.encode(frames)
        painted, masks = self._paint(slots)
        reconstruction, motion = painted[..., : self.feature_dim], painted[:, :-1, :, self.feature_dim :]
        terms = {
            "reconstruction": F.mse_loss(reconstruction, frames),
            "similarity": F.cross_entropy(
                motion.flatten(0, 2), temporal_similarity(frames, temperature=self.temperature).flatten(0, 2)
            ),
        }
        return Losses(
            total=terms["reconstruction"] + self.similarity_weight * terms["similarity"],
            terms=terms,
            outputs={"slots": slots, "reconstruction": reconstruction, "masks": masks},
        )

    def _paint(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        painted, masks = self.decoder(slots.flatten(0, 1))
        return painted.unflatten(0, slots.shape[:2]), masks.unflatten(0, slots.shape[:2])


def temporal_similarity(features: Tensor, *, temperature: float) -> Tensor:
    """Where each patch goes: (B, T-1, L, L), rows sum to 1, of features (B, T, L, E).

    A softmax over the next frame's patches of the cosine similarity divided by ``temperature``; patches of negative
    similarity get nothing. A patch that resembles none gets all alike.
    """
    unit = F.normalize(features.detach(), dim=-1)
    cosine = unit[:, :-1] @ unit[:, 1:].transpose(-1, -2)
    scores = (cosine / temperature).masked_fill(cosine < 0, -torch.inf)
    return scores.softmax(dim=-1).nan_to_num(1 / scores.shape[-1])
