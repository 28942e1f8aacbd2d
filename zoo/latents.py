"""What is trained on the latents of a frozen world model: its config, and how it reads two frames.

Shape letters: B batch, N latent tokens per frame, D latent width, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.layers.norms import BatchNorm1d
from jepakit.zoo.layers.transformer import block_stack
from jepakit.zoo.trainable import DataConfig, Trainable
from jepakit.zoo.weights import build_model, read_checkpoint

M = TypeVar("M", bound="LatentModel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentConfig(DataConfig):
    """What every network on a world model's latents must know of it; filled in by ``LatentModule``.

    ``world_model`` is the fingerprint of its weights (``jepakit.zoo.files.fingerprint``), ``ordered`` says whether its
    ``tokens`` per frame, ``latent_width`` wide, keep their places.
    """

    tokens: int = 1
    latent_width: int = 1
    ordered: bool = True
    world_model: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig(LatentConfig):
    """What every network that reads a frame and its goal must know.

    ``max_offset`` environment steps is how far a goal may be away. Several latent tokens per frame are read by a small
    transformer, whose sizes are ``token_*``, or, with ``flatten``, side by side as one vector, if they keep their
    places.
    """

    max_offset: int = 50
    flatten: bool = False
    token_features: int = 128
    token_depth: int = 2
    token_heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.flatten and not self.ordered:
            raise ValueError(
                "flatten: found true, expected false: this world model's latent tokens are objects without places"
            )


class LatentModel(Trainable):
    """A network on the latents of one world model."""

    config: LatentConfig

    def check_world_model(self, model: WorldModel) -> None:
        """Raise ``ValueError`` unless ``model`` has the latents on which this was trained."""
        found = fingerprint(model.latents_of)
        if found != self.config.world_model:
            raise ValueError(
                f"{self.name}: was trained on the latents of a world model with the fingerprint "
                f"{self.config.world_model[:12] or 'none'}, found {found[:12]}; plan with that model, or train a "
                f"{self.name} for this one"
            )

    def check_goals(self, batch: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ``ValueError`` unless ``batch`` holds goal pairs with latents and what else has ``shapes``."""
        missing = [name for name in ("features", "offset", *shapes) if name not in batch]
        if missing:
            raise ValueError(
                f"batch: found keys {sorted(batch)}, expected also {missing}: a {self.name} learns from goal pairs; "
                "set goals in the data module"
            )
        expected = {"features": (2, self.config.tokens, self.config.latent_width), **shapes}
        for name, shape in expected.items():
            if tuple(batch[name].shape[1:]) != shape:
                raise ValueError(f"{name}: found shape {tuple(batch[name].shape)}, expected (batch, {shape})")


def pair_reader(config: PairConfig) -> VectorReader | TokenReader:
    """Return what reads a frame and its goal; its ``features`` say how many numbers come out."""
    return VectorReader(config) if config.tokens == 1 or config.flatten else TokenReader(config)


def load_latent_model(cls: type[M], source: str | Path, *, revision: str | None = None) -> M:
    """Load a saved ``cls`` in eval mode, from a folder or Hub id; ``ValueError`` for a checkpoint of something else."""
    checkpoint = read_checkpoint(source, revision=revision)
    model = build_model(checkpoint)
    if not isinstance(model, cls):
        raise ValueError(f"{checkpoint.source}: found a {checkpoint.name}, expected a {cls.name}")
    return model


class Standardise(BatchNorm1d):
    """Batch norm that in evaluation is written as what it is, a subtraction and a product, for the exporter's sake."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, W) to zero mean and unit variance."""
        if self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        return (x - self.running_mean) * torch.rsqrt(self.running_var + self.eps)


class VectorReader(nn.Module):
    """Standardised z, g and |z − g| side by side."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.features = 3 * config.tokens * config.latent_width
        self.standardise = Standardise(self.features, affine=False)

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Features (B, 3 · N · D) of two latents (B, N, D)."""
        out: Tensor = self.standardise(torch.cat([latents, goal, (latents - goal).abs()], dim=1).flatten(1))
        return out


class TokenReader(nn.Module):
    """A small transformer over the tokens of both frames, averaged per frame.

    Tokens have learned positions if they keep their places; object slots, which do not, have none, so that their order
    does not matter.
    """

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        width = config.token_features
        self.features = 2 * width
        self.embed = nn.Linear(config.latent_width, width)
        self.frame = nn.Parameter(0.02 * torch.randn(2, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(config.tokens, width)) if config.ordered else None
        self.blocks = block_stack(width, config.token_depth, heads=config.token_heads, mlp=2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Features (B, 2 · token_features) of two frames' tokens (B, N, D)."""
        x = self.embed(torch.stack([latents, goal], dim=1)) + self.frame
        if self.positions is not None:
            x = x + self.positions
        tokens = x.shape[2]
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x).unflatten(1, (2, tokens)).mean(dim=2).flatten(1)
        return out
