"""C-JEPA's predictor and slot matching against recorded outputs of its authors' code. Sizes are read from the files."""

import json
import re

import numpy as np
import pytest
import torch

from jepakit.zoo.cjepa.matching import SlotMatcher
from jepakit.zoo.cjepa.predictor import SlotPredictor

torch.set_num_threads(1)

NAMES = [
    (r"mask_token", "mask_token"),
    (r"time_pos_embed", "times"),
    (r"id_projector\.", "anchor."),
    (r"to_out\.", "output."),
    (r"transformer\.norm\.", "norm."),
    (r"transformer\.layers\.(\d+)\.0\.in_proj_", r"blocks.\1.attention.qkv."),
    (r"transformer\.layers\.(\d+)\.0\.out_proj\.", r"blocks.\1.attention.out."),
    (r"transformer\.layers\.(\d+)\.1\.0\.", r"blocks.\1.feed_forward.norm."),
    (r"transformer\.layers\.(\d+)\.1\.1\.", r"blocks.\1.feed_forward.expand."),
    (r"transformer\.layers\.(\d+)\.1\.4\.", r"blocks.\1.feed_forward.contract."),
]


def recorded(file):
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def translate(name):
    (found,) = [re.sub(theirs, ours, name, count=1) for theirs, ours in NAMES if re.match(theirs, name)]
    return found


@pytest.fixture(scope="module")
def arrays(fixtures_dir):
    return recorded(fixtures_dir / "cjepa_predictor.npz")


@pytest.fixture(scope="module")
def predictor(arrays):
    sizes = json.loads(str(arrays["_config"]))
    assert sizes["tokens"] == sizes["object_slots"] + 2
    assert not sizes["attention_prenorm"]
    built = SlotPredictor(
        sizes["dim"],
        history=sizes["history"],
        future=sizes["future"],
        proprio=True,
        conditioning="nodes",
        depth=sizes["depth"],
        heads=sizes["heads"],
        head_dim=sizes["dim"] // sizes["heads"],
        mlp=sizes["mlp_dim"],
        dropout=0.1,
    )
    weights = {name: torch.from_numpy(value) for name, value in arrays.items() if not name.startswith("_")}
    built.load_state_dict({translate(name): value for name, value in weights.items()}, strict=True)
    return built.eval()


@pytest.fixture(scope="module")
def hidden(arrays):
    slots = arrays["_x"].shape[2] - 2
    return torch.isin(torch.arange(slots), torch.from_numpy(arrays["_masked"]))[None]


def close(found, expected):
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_masked_input_grid(predictor, arrays, hidden):
    close(predictor.tokens(torch.from_numpy(arrays["_x"]), hidden), arrays["_tokens"])


@torch.no_grad()
def test_all_frames_from_a_masked_history(predictor, arrays, hidden):
    seen = torch.from_numpy(arrays["_x"])
    close(predictor.transform(predictor.tokens(seen, hidden)), arrays["_y"])
    close(predictor(seen, hidden), arrays["_y"][:, :, :-1])


@torch.no_grad()
def test_the_future_from_a_visible_history(predictor, arrays):
    seen = torch.from_numpy(arrays["_x"])
    close(predictor.transform(predictor.tokens(seen), future_only=True), arrays["_inference"])
    close(predictor(seen, future_only=True), arrays["_inference"][:, :, :-1])


def test_optimal_matching(fixtures_dir):
    arrays = recorded(fixtures_dir / "slot_matching.npz")
    predicted, target = torch.from_numpy(arrays["pred"]), torch.from_numpy(arrays["target"])
    matcher = SlotMatcher(predicted.shape[1])
    assert torch.equal(matcher(target, predicted), torch.from_numpy(arrays["permutation"]))
    error = (matcher.match(predicted, target) - target).square().sum(dim=(1, 2))
    torch.testing.assert_close(error, torch.from_numpy(arrays["matched_sq_error"]), atol=0, rtol=1e-5)
