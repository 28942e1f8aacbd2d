"""VJEPA's sizes and training as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from jepakit.zoo.base import WorldModelConfig
from jepakit.zoo.config import at_least, require_multiple


@dataclass(frozen=True, kw_only=True)
class VJEPAConfig(WorldModelConfig):
    """V-JEPA with V-JEPA 2-AC's predictor, size ``tiny``; ``nano()`` is for 64-pixel frames on a CPU.

    The encoder is trained for ``encoder_steps`` optimiser steps; ``hidden_fraction`` of a picture's patches are then
    hidden and the target encoder follows with ``momentum``, which rises linearly to 1. After that the predictor is
    trained, also on imagined futures of ``rollout_steps`` frames. Masks follow from ``seed`` and the training step.
    """

    patch_size: int = 16
    vit_width: int = 192
    vit_depth: int = 12
    vit_heads: int = 3
    vit_mlp: int = 768

    encoder_steps: int = 10_000
    hidden_fraction: float = 0.75
    momentum: float = 0.998
    mask_predictor_width: int = at_least(6, default=96)
    mask_predictor_depth: int = 6
    mask_predictor_heads: int = 3

    predictor_width: int = 192
    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 64
    predictor_mlp: int = 2048
    dropout: float = 0.0
    rollout_steps: int = 2
    seed: int = at_least(0, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_multiple("image_size", self.image_size, "patch_size", self.patch_size)
        require_multiple("vit_width", self.vit_width, "vit_heads", self.vit_heads)
        heads = self.mask_predictor_heads
        require_multiple("mask_predictor_width", self.mask_predictor_width, "mask_predictor_heads", heads)
        if not 0 < self.visible < self.tokens:
            raise ValueError(
                f"hidden_fraction: found {self.hidden_fraction} of {self.tokens} patches, expected at least one "
                "visible and one hidden; change it or patch_size"
            )
        if not 0.0 <= self.momentum <= 1.0:
            raise ValueError(f"momentum: found {self.momentum}, expected between 0 and 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: found {self.dropout}, expected 0 <= dropout < 1")

    @property
    def pretrain_steps(self) -> int:
        """Steps that train the encoder alone."""
        return self.encoder_steps

    @property
    def tokens(self) -> int:
        """N: patches of a frame."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def visible(self) -> int:
        """V: patches of a frame that are not hidden."""
        return self.tokens - round(self.hidden_fraction * self.tokens)

    @classmethod
    def nano(cls) -> VJEPAConfig:
        """Return the size for 64-pixel frames that trains on a CPU in minutes."""
        return cls(
            image_size=64,
            vit_width=96,
            vit_depth=3,
            vit_heads=3,
            vit_mlp=192,
            encoder_steps=200,
            momentum=0.99,
            mask_predictor_width=48,
            mask_predictor_depth=2,
            mask_predictor_heads=2,
            predictor_width=128,
            predictor_depth=2,
            predictor_heads=4,
            predictor_head_dim=32,
            predictor_mlp=256,
        )
