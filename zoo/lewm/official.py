"""Reading checkpoints in the layout of LeWM's authors: ``weights.pt`` and a ``config.json`` of ``_target_`` names.

The names are compared with the ones known here and never imported; the weights are read with ``weights_only``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepakit.hub import locate
from jepakit.json_files import check_json, read_json
from jepakit.untrusted import load_tensors
from jepakit.zoo.config import parse_config
from jepakit.zoo.lewm.config import LeWMConfig
from jepakit.zoo.lewm.model import LeWMModel
from jepakit.zoo.trainable import neutral_statistics
from jepakit.zoo.weights import Checkpoint

_CONFIG_FILE = "config.json"
_WEIGHTS_FILE = "weights.pt"
_TARGETS = {
    "": "stable_worldmodel.wm.lewm.LeWM",
    "encoder": "stable_pretraining.backbone.utils.vit_hf",
    "predictor": "stable_worldmodel.wm.lewm.module.Predictor",
    "action_encoder": "stable_worldmodel.wm.lewm.module.Embedder",
    "projector": "stable_worldmodel.wm.lewm.module.MLP",
    "projector.norm_fn": "torch.nn.BatchNorm1d",
    "pred_proj": "stable_worldmodel.wm.lewm.module.MLP",
    "pred_proj.norm_fn": "torch.nn.BatchNorm1d",
}
_TREE = {
    "encoder": {"size": str, "image_size": int, "patch_size": int},
    "predictor": {
        **{"num_frames": int, "hidden_dim": int, "depth": int, "heads": int, "dim_head": int, "mlp_dim": int},
        **{"dropout": float, "emb_dropout?": float},
    },
    "action_encoder": {"input_dim": int},
}
_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16}

# Their names to ours: (prefix, our prefix, what follows). Encoder blocks exist in an older and a newer spelling.
_PROJECTOR = {"0": "expand", "1": "norm", "3": "contract"}
_NAMES: list[tuple[str, str, dict[str, str]]] = [
    (
        r"encoder\.(?:encoder\.layer|layers)\.(\d+)\.",
        r"encoder.blocks.\1.",
        {
            **{"attention.attention.query": "attention.q", "attention.q_proj": "attention.q"},
            **{"attention.attention.key": "attention.k", "attention.k_proj": "attention.k"},
            **{"attention.attention.value": "attention.v", "attention.v_proj": "attention.v"},
            **{"attention.output.dense": "attention.out", "attention.o_proj": "attention.out"},
            **{"layernorm_before": "attention.norm", "layernorm_after": "feed_forward.norm"},
            **{"intermediate.dense": "feed_forward.expand", "mlp.fc1": "feed_forward.expand"},
            **{"output.dense": "feed_forward.contract", "mlp.fc2": "feed_forward.contract"},
        },
    ),
    (
        r"encoder\.",
        r"encoder.",
        {
            "embeddings.cls_token": "cls",
            "embeddings.position_embeddings": "positions",
            "embeddings.patch_embeddings.projection": "patches",
            "layernorm": "norm",
        },
    ),
    (
        r"predictor\.transformer\.layers\.(\d+)\.",
        r"predictor.blocks.\1.",
        {
            **{"attn.norm": "attention.norm", "attn.to_qkv": "attention.qkv", "attn.to_out.0": "attention.out"},
            **{"mlp.net.0": "feed_forward.norm", "mlp.net.1": "feed_forward.expand"},
            **{"mlp.net.4": "feed_forward.contract", "adaLN_modulation.1": "modulation"},
        },
    ),
    (
        r"predictor\.transformer\.",
        r"predictor.",
        {
            **{"norm": "norm", "input_proj": "input_proj", "output_proj": "output_proj"},
            **{"cond_proj": "condition_proj"},
        },
    ),
    (r"predictor\.", r"predictor.", {"pos_embedding": "positions"}),
    (r"action_encoder\.", r"action_encoder.", {"patch_embed": "mix", "embed.0": "expand", "embed.2": "contract"}),
    (r"projector\.net\.", r"projector.", _PROJECTOR),
    (r"pred_proj\.net\.", r"prediction_projector.", _PROJECTOR),
]
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def read_official(
    source: str | Path, *, revision: str | None = None, frame_skip: int = 5, encoder_heads: int | None = None
) -> Checkpoint:
    """Read a released LeWM from a folder or Hub id, names translated; ``weights.build_model`` makes it a model.

    The files hold no statistics: call ``set_statistics`` with the data's before passing raw actions. They do not say
    how an action block divides into ``frame_skip`` raw actions, nor the encoder's number of heads where it departs
    from its named size (``encoder_heads``).

    Raises as ``from_pretrained`` does, and ``ValueError`` for a ``_target_`` that is not LeWM's.
    """
    folder = locate(source, (_CONFIG_FILE, _WEIGHTS_FILE), revision=revision)
    config_file, weights_file = folder / _CONFIG_FILE, folder / _WEIGHTS_FILE
    tree = read_json(config_file)
    for path, target in _targets(tree):
        if target != _TARGETS.get(path):
            raise ValueError(
                f"{config_file}: {path or 'top'}._target_: found {target!r}, expected {_TARGETS.get(path)!r}; "
                "this is not a LeWM checkpoint of the known layout"
            )
    tensors = _translate(_read_weights(weights_file), weights_file)
    check_json(tree, _TREE, where=str(config_file))
    try:
        config = _config(tree, tensors, frame_skip, encoder_heads)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{weights_file}: found no {error} of the layout's shape") from error
    except ValueError as error:
        raise ValueError(f"{config_file}: {error}") from error
    return Checkpoint(
        name=LeWMModel.name,
        config=config,
        tensors={**tensors, **neutral_statistics(config)},
        source=weights_file,
    )


def _targets(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every ``_target_`` in the tree with its dotted path; the top must have one."""
    if not path or "_target_" in tree:
        yield path, tree.get("_target_")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _targets(value, f"{path}.{key}" if path else key)


def _read_weights(file: Path) -> dict[str, Tensor]:
    tensors = load_tensors(file.read_bytes(), where=file)
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{file}: found {type(tensors).__name__}, expected a mapping of names to tensors")
    return dict(tensors)


def _translate(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Rename every tensor and fuse the encoder's q, k, v; raises ``ValueError`` for names the layout does not have."""
    renamed = {_rename(name): value for name, value in tensors.items()}
    unknown = sorted(name for name in tensors if _rename(name) is None)
    if unknown or len(renamed) != len(tensors):
        raise ValueError(f"{file}: found unknown or double names, among them {unknown[:5]}; expected LeWM's layout")
    ours = {name: value for name, value in renamed.items() if name is not None}
    for name in [name for name in ours if ".attention.q." in name]:
        parts = [ours.pop(name.replace(".attention.q.", f".attention.{part}."), None) for part in "qkv"]
        present = [part for part in parts if part is not None]
        if len(present) < len(parts):
            raise ValueError(f"{file}: found {name} without its k or v; expected all three")
        ours[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat(present)
    mix = "action_encoder.mix.weight"
    if mix in ours and ours[mix].ndim == 3:  # a convolution of kernel size 1
        ours[mix] = ours[mix].squeeze(-1)
    return ours


def _rename(name: str) -> str | None:
    """Our name of their tensor, or ``None`` for a name the layout does not have."""
    for prefix, ours, modules in _NAMES:
        if match := re.match(prefix, name):
            rest = name[match.end() :]
            module, _, leaf = rest.rpartition(".")
            if leaf in _LEAVES and module in modules:
                return f"{match.expand(ours)}{modules[module]}.{leaf}"
            if rest in modules:
                return match.expand(ours) + modules[rest]
    return None


def _config(
    tree: Mapping[str, Any], tensors: Mapping[str, Tensor], frame_skip: int, encoder_heads: int | None
) -> LeWMConfig:
    """Our config, from their config where it speaks and from the tensors' shapes elsewhere."""
    encoder, predictor = tree["encoder"], tree["predictor"]
    heads = encoder_heads or _HEADS.get(encoder["size"])
    if heads is None:
        raise ValueError(f"encoder.size: found {encoder['size']!r}, expected one of {list(_HEADS)}, or encoder_heads")
    if predictor.get("emb_dropout", 0.0):
        raise ValueError(f"predictor.emb_dropout: found {predictor['emb_dropout']}, expected 0")
    block_width = tree["action_encoder"]["input_dim"]
    if block_width % frame_skip:
        raise ValueError(
            f"action_encoder.input_dim: found {block_width}, expected a multiple of frame_skip {frame_skip}"
        )
    blocks = {name.split(".")[2] for name in tensors if name.startswith("encoder.blocks.")}
    values = {
        "image_size": encoder["image_size"],
        "frame_skip": frame_skip,
        "action_dim": block_width // frame_skip,
        "history": predictor["num_frames"],
        "patch_size": encoder["patch_size"],
        "vit_width": tensors["encoder.cls"].shape[-1],
        "vit_depth": len(blocks),
        "vit_heads": heads,
        "vit_mlp": tensors["encoder.blocks.0.feed_forward.expand.bias"].shape[0],
        "latent_dim": tensors["projector.contract.bias"].shape[0],
        "projector_hidden": tensors["projector.contract.weight"].shape[1],
        "action_mixed": tensors["action_encoder.mix.bias"].shape[0],
        "action_hidden": tensors["action_encoder.expand.bias"].shape[0],
        "predictor_width": predictor["hidden_dim"],
        "predictor_depth": predictor["depth"],
        "predictor_heads": predictor["heads"],
        "predictor_head_dim": predictor["dim_head"],
        "predictor_mlp": predictor["mlp_dim"],
        "dropout": predictor["dropout"],
    }
    return parse_config(LeWMConfig, values, where="as a LeWM")
