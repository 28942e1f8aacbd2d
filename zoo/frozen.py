"""World models on an encoder that is never trained: its architecture in the config, its weights in the checkpoint.

The weights come from elsewhere only once, before a training starts (``FrozenEncoderModel.load_encoder``); from then
on they travel with the model, so that loading a checkpoint downloads nothing.

Shape letters: B batch, T frames, M pictures, N tokens per frame, E token width, h, w picture size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel, WorldModelConfig
from jepakit.zoo.config import require_multiple
from jepakit.zoo.files import fingerprint, load_strict
from jepakit.zoo.layers.cnn import CNNEncoder, total_stride
from jepakit.zoo.layers.transformer import Attention, Block, FeedForward

_NORM_EPS = {"dinov2": 1e-6, "vit": 1e-12}


@dataclass(frozen=True, kw_only=True)
class FrozenEncoderConfig(WorldModelConfig):
    """The architecture of a frozen encoder; the defaults are those of ``facebook/dinov2-small``.

    ``encoder`` chooses between the ``vit_*`` fields with ``patch_size`` (DINOv2 and plain ViT) and ``cnn_channels``
    (the convolutions of a LeWM or PLDM trained here). Frames are scaled to ``encoder_size`` pixels first: 196 gives
    14 × 14 = 196 tokens as in the original DINO-WM, 224 gives 256.
    """

    encoder: Literal["dinov2", "vit", "cnn"] = "dinov2"
    encoder_size: int = 196
    patch_size: int = 14
    vit_width: int = 384
    vit_depth: int = 12
    vit_heads: int = 6
    vit_mlp: int = 1536
    cnn_channels: tuple[int, ...] = (32, 64, 96)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder == "cnn":
            if not self.cnn_channels or min(self.cnn_channels) < 1:
                raise ValueError(f"cnn_channels: found {list(self.cnn_channels)}, expected positive numbers")
            require_multiple("encoder_size", self.encoder_size, "cnn_channels' stride", total_stride(self.cnn_channels))
        else:
            require_multiple("encoder_size", self.encoder_size, "patch_size", self.patch_size)
            require_multiple("vit_width", self.vit_width, "vit_heads", self.vit_heads)

    @property
    def grid(self) -> int:
        """Tokens along one side of a frame."""
        return self.encoder_size // (total_stride(self.cnn_channels) if self.encoder == "cnn" else self.patch_size)

    @property
    def tokens(self) -> int:
        """N: tokens of a frame, in rows from the top left."""
        return self.grid**2

    @property
    def token_width(self) -> int:
        """E: width of a token."""
        return self.cnn_channels[-1] if self.encoder == "cnn" else self.vit_width


class FrozenEncoder(nn.Module):
    """Frames to tokens, without gradients; ``loaded`` says whether the weights are more than random.

    There is neither dropout nor batch norm in it, so that train and eval mode are the same.

    The vision transformers give their normalised patch tokens, without CLS; the convolutions the positions of their
    last layer, standardised.
    """

    loaded: Tensor

    def __init__(self, config: FrozenEncoderConfig) -> None:
        super().__init__()
        self.body: nn.Module
        if config.encoder == "cnn":
            self.body = ConvolutionalTokens(config)
        else:
            self.body = PatchTokens(config)
        same = config.encoder_size == config.image_size
        self.resize = nn.Identity() if same else Resize(config.image_size, config.encoder_size)
        self.register_buffer("loaded", torch.tensor(False))
        self.requires_grad_(False)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to tokens (M, N, E)."""
        tokens: Tensor = self.body(self.resize(frames))
        return tokens

    def fingerprint(self) -> str:
        """SHA-256 of every weight, as hexadecimal digits: equal encoders make equal features."""
        return fingerprint(self)


class PatchTokens(nn.Module):
    """A vision transformer read at its patches, behind the last layer norm (arXiv 2010.11929).

    DINOv2's layer scales are folded into the linear maps before them when weights are read, so that it is the same
    network but for the norms' eps.
    """

    def __init__(self, config: FrozenEncoderConfig) -> None:
        super().__init__()
        width, eps = config.vit_width, _NORM_EPS[config.encoder]
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.tokens, width))
        self.patches = nn.Conv2d(3, width, kernel_size=config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(
            Block(
                Attention(
                    width, heads=config.vit_heads, head_dim=width // config.vit_heads, qkv_bias=True, norm_eps=eps
                ),
                FeedForward(width, config.vit_mlp, norm_eps=eps),
            )
            for _ in range(config.vit_depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to tokens (M, N, E)."""
        x = self.patches(frames).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x[:, 1:])
        return tokens


class ConvolutionalTokens(nn.Module):
    """The feature map of ``CNNEncoder``, its norms folded, before it is flattened; standardised over training frames.

    Each position loses its mean, because nearly all of such a map is the same in every frame, and what moves would
    not count beside it; all are divided by one number.
    """

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, config: FrozenEncoderConfig) -> None:
        super().__init__()
        self.layers = CNNEncoder(image_size=config.encoder_size, channels=config.cnn_channels, norms=False).layers
        self.register_buffer("mean", torch.zeros(config.tokens, config.token_width))
        self.register_buffer("std", torch.tensor(1.0))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to tokens (M, N, E)."""
        tokens: Tensor = self.layers(frames).flatten(2).transpose(1, 2)
        return (tokens - self.mean) / self.std

    @torch.no_grad()
    def fit(self, frames: Tensor) -> None:
        """Take mean and deviation of normalised pictures (M, 3, h, w), once: later calls change nothing."""
        if self.fitted:
            return
        tokens = self(frames)
        self.mean.copy_(tokens.mean(dim=0))
        self.std.copy_((tokens - self.mean).std())
        self.fitted.fill_(True)


class Resize(nn.Module):
    """Bilinear scaling with antialiasing, as two matrix products.

    Equal to ``interpolate(mode="bilinear", antialias=True)``, for which the ONNX exporter has no operator.
    """

    matrix: Tensor

    def __init__(self, size: int, new_size: int) -> None:
        super().__init__()
        rows = F.interpolate(torch.eye(size)[None, None], (new_size, size), mode="bilinear", antialias=True)
        self.register_buffer("matrix", rows[0, 0], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Pictures (M, 3, size, size) to (M, 3, new_size, new_size)."""
        return self.matrix @ frames @ self.matrix.T


class FrozenEncoderModel(WorldModel):
    """Base of models on a frozen encoder. ``features`` in an observation stand in for ``pixels`` (see FeatureCache)."""

    config: FrozenEncoderConfig

    def __init__(self, config: FrozenEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = FrozenEncoder(config)

    def features(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Tokens (B, T, N, E) of an observation: its ``features`` if it has them, else computed from ``pixels``."""
        given = self.check_observation(observation)
        if "features" in observation:
            return given.to(self.action_mean.dtype)
        frames = self.normalise_frames(given)
        tokens: Tensor = self.encoder(frames.flatten(0, 1))
        return tokens.reshape(*frames.shape[:2], self.config.tokens, self.config.token_width)

    def check_observation(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Return ``features`` (B, T, N, E) if there are any, else ``pixels``; ``ValueError`` if they are wrong."""
        if "features" not in observation:
            return self.check_frames(observation)
        features = observation["features"]
        expected = (self.config.tokens, self.config.token_width)
        if features.ndim != 4 or tuple(features.shape[2:]) != expected or not features.is_floating_point():
            raise ValueError(
                f"features: found {features.dtype} of shape {tuple(features.shape)}, expected floating point (batch, "
                f"frames, {expected[0]}, {expected[1]}): the tokens and their width in the model's config"
            )
        return features

    def load_encoder(self, source: str | Path) -> None:
        """Take the encoder's weights from a folder or Hub id; see ``jepakit.zoo.encoder_weights.read_encoder``."""
        from jepakit.zoo.encoder_weights import read_encoder

        tensors = {**read_encoder(source, self.config), "loaded": torch.tensor(True)}
        load_strict(self.encoder, tensors, source=Path(source))

    def fit_tokens(self, pixels: Tensor) -> None:
        """Standardise the tokens of convolutions over training frames (M, h, w, 3) uint8; see ConvolutionalTokens."""
        if isinstance(self.encoder.body, ConvolutionalTokens):
            frames = self.normalise_frames(pixels.unsqueeze(0).to(self.action_mean.device)).squeeze(0)
            self.encoder.body.fit(self.encoder.resize(frames))

    def require_encoder(self) -> None:
        """Raise ``ValueError`` while the encoder has no weights but random ones."""
        if not self.encoder.loaded:
            raise ValueError(
                "encoder_weights: found nothing, expected where the frozen encoder's weights come from: "
                + (
                    "the folder of a LeWM or PLDM trained with encoder 'cnn' (runs/…/weights)"
                    if self.config.encoder == "cnn"
                    else "a folder or Hub id such as facebook/dinov2-small"
                )
            )
