"""Reading the weights of a frozen encoder: a vision transformer in the Hub's layout, or a model trained here.

Only safetensors are read and no code comes with them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jepakit.hub import locate
from jepakit.json_files import read_json
from jepakit.untrusted import naming
from jepakit.zoo.base import WorldModelConfig
from jepakit.zoo.files import load_strict
from jepakit.zoo.frozen import FrozenEncoderConfig
from jepakit.zoo.layers.cnn import CNNEncoder
from jepakit.zoo.weights import CONFIG_FILE, WEIGHTS_FILE, read_checkpoint

# Names inside a block, DINOv2's and ViT's; the transformers library has two spellings of some.
_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)\.(weight|bias|lambda1)")
_NAMES = {
    **{"norm1": "attention.norm", "layernorm_before": "attention.norm"},
    **{"norm2": "feed_forward.norm", "layernorm_after": "feed_forward.norm"},
    **{"attention.q_proj": "attention.q", "attention.attention.query": "attention.q"},
    **{"attention.k_proj": "attention.k", "attention.attention.key": "attention.k"},
    **{"attention.v_proj": "attention.v", "attention.attention.value": "attention.v"},
    **{"attention.o_proj": "attention.out", "attention.output.dense": "attention.out"},
    **{"mlp.fc1": "feed_forward.expand", "intermediate.dense": "feed_forward.expand"},
    **{"mlp.fc2": "feed_forward.contract", "output.dense": "feed_forward.contract"},
    **{"layer_scale1": "attention.out.scale", "layer_scale2": "feed_forward.contract.scale"},
}
_OUTSIDE = {
    "embeddings.cls_token": "cls",
    "embeddings.position_embeddings": "positions",
    "embeddings.patch_embeddings.projection.weight": "patches.weight",
    "embeddings.patch_embeddings.projection.bias": "patches.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_UNUSED = re.compile(r"embeddings\.mask_token|pooler\..*")


def read_encoder(source: str | Path, config: FrozenEncoderConfig) -> dict[str, Tensor]:
    """Tensors of ``FrozenEncoder`` from ``source``: a folder, or a Hub id (see ``jepakit.hub.locate``).

    For the encoders ``dinov2`` and ``vit`` a ``config.json`` beside ``model.safetensors`` as the transformers library
    saves them; for ``cnn`` a checkpoint of a LeWM or PLDM trained with that encoder.

    Raises ``FileNotFoundError`` for missing files and ``ValueError``, naming the config's fields to set, for an
    encoder of another kind or size.
    """
    if config.encoder == "cnn":
        return _read_convolutions(source, config)
    folder = locate(source, (CONFIG_FILE, WEIGHTS_FILE))
    return {f"body.{name}": value for name, value in _read_transformer(folder, config).items()}


def _read_transformer(folder: Path, config: FrozenEncoderConfig) -> dict[str, Tensor]:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as their_logging

    read_json(folder / CONFIG_FILE)  # for an error that names it
    with naming(folder / CONFIG_FILE):
        theirs = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _check_kind(folder, theirs, config)
    verbosity = their_logging.get_verbosity()
    their_logging.set_verbosity(logging.ERROR)  # it would list the pooler, which nobody reads, as missing or unexpected
    try:
        with naming(folder / WEIGHTS_FILE):
            model, report = AutoModel.from_pretrained(
                folder,
                config=theirs,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    finally:
        their_logging.set_verbosity(verbosity)
    missing = sorted(name for name in report["missing_keys"] if not _UNUSED.fullmatch(name))
    if missing:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: {len(missing)} tensors are missing, among them {missing[:3]}; "
            "get the encoder again"
        )
    ours = translate(model.state_dict(), config)
    return {name: value.contiguous() for name, value in ours.items()}


def _check_kind(folder: Path, theirs: Any, config: FrozenEncoderConfig) -> None:  # noqa: ANN401 (one class per kind)
    """Raise ``ValueError`` naming every field of ``config`` that does not fit the encoder's own config."""
    file = folder / CONFIG_FILE
    if theirs.model_type not in ("dinov2", "vit"):
        raise ValueError(f"{file}: found a model of type {theirs.model_type!r}, expected 'dinov2' or 'vit'")
    if theirs.hidden_act != "gelu" or getattr(theirs, "use_swiglu_ffn", False):
        raise ValueError(f"{file}: found another feed-forward layer than Linear, GELU, Linear; choose another encoder")
    ratio = getattr(theirs, "mlp_ratio", None)
    sizes = {
        "encoder": theirs.model_type,
        "patch_size": theirs.patch_size,
        "vit_width": theirs.hidden_size,
        "vit_depth": theirs.num_hidden_layers,
        "vit_heads": theirs.num_attention_heads,
        "vit_mlp": theirs.intermediate_size if ratio is None else int(theirs.hidden_size * ratio),
    }
    require_same(file, sizes, config)


def require_same(file: Path, sizes: Mapping[str, object], config: WorldModelConfig) -> None:
    """Raise ``ValueError`` naming the fields of ``config`` to set where they differ from the encoder's in ``file``."""
    wrong = {name: value for name, value in sizes.items() if getattr(config, name) != value}
    if wrong:
        found = ", ".join(f"{name} {getattr(config, name)}" for name in wrong)
        remedy = ", ".join(f"{name}: {value}" for name, value in wrong.items())
        raise ValueError(f"{file}: the encoder does not fit a model config with {found}; set {remedy}")


def translate(tensors: Mapping[str, Tensor], config: FrozenEncoderConfig) -> dict[str, Tensor]:
    """Tensors of a DINOv2 or ViT of the transformers library as those of ``PatchTokens``.

    Queries, keys and values are joined, layer scales folded into the map before them, positions interpolated
    (bicubic, as that library does) where the encoder was trained on frames of another size.
    """
    renamed = {_rename(name): value for name, value in tensors.items() if not _UNUSED.fullmatch(name)}
    ours = {name: value for name, value in renamed.items() if not name.endswith(".scale.lambda1")}
    for block in range(config.vit_depth):
        prefix = f"blocks.{block}.attention"
        for leaf in ("weight", "bias"):
            parts = [ours.pop(f"{prefix}.{part}.{leaf}", None) for part in "qkv"]
            biasless = torch.zeros(config.vit_width)  # qkv_bias: false
            ours[f"{prefix}.qkv.{leaf}"] = torch.cat([biasless if part is None else part for part in parts])
    for name, scale in renamed.items():
        if name.endswith(".scale.lambda1"):
            layer = name.removesuffix(".scale.lambda1")
            ours[f"{layer}.weight"] = scale.unsqueeze(1) * ours[f"{layer}.weight"]
            ours[f"{layer}.bias"] = scale * ours[f"{layer}.bias"]
    ours["positions"] = _interpolate(ours["positions"], config.grid)
    return ours


def _rename(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _BLOCK.fullmatch(name)
    if match is None or match[2] not in _NAMES:
        raise ValueError(f"encoder: found the tensor {name!r}, expected those of a DINOv2 or ViT; update transformers")
    return f"blocks.{match[1]}.{_NAMES[match[2]]}.{match[3]}"


def _interpolate(positions: Tensor, grid: int) -> Tensor:
    """Positions (1, 1 + n², E), the first one of CLS, for ``grid``² patches."""
    side = int((positions.shape[1] - 1) ** 0.5)
    if side == grid:
        return positions
    patches = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def _read_convolutions(source: str | Path, config: FrozenEncoderConfig) -> dict[str, Tensor]:
    checkpoint = read_checkpoint(source)
    trained = checkpoint.config
    kind = getattr(trained, "encoder", None)
    if kind != "cnn":
        raise ValueError(f"{checkpoint.source}: found a {checkpoint.name} with encoder {kind!r}, expected 'cnn'")
    sizes = {
        "encoder_size": getattr(trained, "image_size", None),
        "cnn_channels": getattr(trained, "cnn_channels", None),
    }
    require_same(checkpoint.source, sizes, config)
    prefix = "encoder."
    found = {name.removeprefix(prefix): value for name, value in checkpoint.tensors.items() if name.startswith(prefix)}
    encoder = CNNEncoder(image_size=config.encoder_size, channels=config.cnn_channels)
    load_strict(encoder, found, source=checkpoint.source)
    return {
        **{f"body.{name}": value for name, value in encoder.folded().state_dict().items()},
        "body.mean": torch.zeros(config.tokens, config.token_width),  # until ``fit_tokens``
        "body.std": torch.tensor(1.0),
        "body.fitted": torch.tensor(False),
    }
