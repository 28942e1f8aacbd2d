"""DINO-WM's predictor against recorded outputs of its authors' code. Every size is read from the file."""

import json

import numpy as np
import pytest
import torch

from jepakit.zoo.layers.frame_causal import FrameCausalPredictor

NAMES = {
    "pos_embedding": "positions",
    "transformer.norm": "norm",
    "0.norm": "attention.norm",
    "0.to_qkv": "attention.qkv",
    "0.to_out.0": "attention.out",
    "1.net.0": "feed_forward.norm",
    "1.net.1": "feed_forward.expand",
    "1.net.4": "feed_forward.contract",
}


def translate(name):
    if name in NAMES:
        return NAMES[name]
    module, _, leaf = name.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{leaf}"
    layer, _, rest = module.removeprefix("transformer.layers.").partition(".")
    return f"blocks.{layer}.{NAMES[rest]}.{leaf}"


@pytest.fixture(scope="module")
def recorded(fixtures_dir):
    with np.load(fixtures_dir / "dinowm_predictor.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def predictor(recorded):
    sizes = json.loads(str(recorded["_config"]))
    built = FrameCausalPredictor(
        sizes["dim"],
        tokens=sizes["num_patches"],
        history=sizes["num_frames"],
        width=sizes["dim"],
        depth=sizes["depth"],
        heads=sizes["heads"],
        head_dim=sizes["dim_head"],
        mlp=sizes["mlp_dim"],
        dropout=0.1,
    )
    weights = {translate(name): torch.from_numpy(value) for name, value in recorded.items() if not name.startswith("_")}
    built.load_state_dict(weights, strict=True)
    return built.eval()


@pytest.mark.parametrize("frames", [1, 2, 3])
@torch.no_grad()
def test_the_predictor_agrees_with_the_authors(predictor, recorded, frames):
    """The mask makes the answers for shorter histories prefixes of the recorded ones."""
    x = torch.from_numpy(recorded["_x"]).unflatten(1, (-1, predictor.tokens))[:, :frames]
    y = torch.from_numpy(recorded["_y"]).unflatten(1, (-1, predictor.tokens))[:, :frames]
    torch.testing.assert_close(predictor(x), y, atol=1e-5, rtol=0)
    torch.testing.assert_close(predictor(x, last_only=True), y[:, -1:], atol=1e-5, rtol=0)
