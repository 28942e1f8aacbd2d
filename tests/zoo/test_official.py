import json
import shutil
from pathlib import Path

import pytest
import torch

from jepakit.zoo import LeWM, from_pretrained
from jepakit.zoo.lewm.official import read_official
from jepakit.zoo.weights import build_model

RECORDED = Path(__file__).parents[1] / "fixtures" / "lewm_official_layout"
NEWER = [
    ("encoder.encoder.layer.", "encoder.layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
]


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "official"
    copy.mkdir()
    for name in ("config.json", "weights.pt"):
        shutil.copyfile(RECORDED / name, copy / name)
    return copy


@pytest.fixture
def heads(folder):
    return json.loads((folder / "config.json").read_text())["fixture_encoder"]["num_attention_heads"]


def edit_weights(folder, change):
    tensors = torch.load(folder / "weights.pt", weights_only=True)
    torch.save(change(tensors), folder / "weights.pt")


def edit_config(folder, change):
    tree = json.loads((folder / "config.json").read_text())
    change(tree)
    (folder / "config.json").write_text(json.dumps(tree))


def newer_names(tensors):
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in NEWER:
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def test_both_spellings_of_the_encoder_load_alike(folder, heads):
    older = read_official(folder, encoder_heads=heads)
    edit_weights(folder, newer_names)
    newer = read_official(folder, encoder_heads=heads)
    assert newer.config == older.config
    assert newer.tensors.keys() == older.tensors.keys()
    assert all(torch.equal(newer.tensors[name], tensor) for name, tensor in older.tensors.items())


def test_it_loads_and_saves_as_one_of_ours(folder, heads, tmp_path):
    edit_config(folder, lambda tree: tree["encoder"].update(size={3: "tiny", 6: "small"}[heads]))
    module = from_pretrained(f"official:{folder}")
    assert isinstance(module, LeWM)
    again = LeWM.from_pretrained(module.save_pretrained(tmp_path / "ours"))
    size = module.model.config.image_size
    pixels = torch.zeros(1, 1, size, size, 3, dtype=torch.uint8)
    assert torch.equal(again.encode({"pixels": pixels}), module.encode({"pixels": pixels}))


def test_a_predictor_of_another_width_than_the_latents(folder, heads):
    """The layout then has three linear maps more around the predictor's blocks."""
    checkpoint = read_official(folder, encoder_heads=heads)
    width, inner = checkpoint.config.latent_dim, checkpoint.config.predictor_width + 8
    wide = LeWM(config={**vars(checkpoint.config), "predictor_width": inner}).model
    theirs = torch.load(folder / "weights.pt", weights_only=True)
    for name, tensor in wide.predictor.state_dict().items():
        for ours, their in (
            *(("condition_proj", "transformer.cond_proj"), ("input_proj", "transformer.input_proj")),
            *(("output_proj", "transformer.output_proj"), ("norm.", "transformer.norm.")),
            *(("blocks.", "transformer.layers."), ("positions", "pos_embedding")),
        ):
            if name.startswith(ours):
                their_name = "predictor." + their + name.removeprefix(ours)
        for ours, their in (
            *(("attention.norm", "attn.norm"), ("attention.qkv", "attn.to_qkv"), ("attention.out", "attn.to_out.0")),
            *(("feed_forward.norm", "mlp.net.0"), ("feed_forward.expand", "mlp.net.1")),
            *(("feed_forward.contract", "mlp.net.4"), ("modulation", "adaLN_modulation.1")),
        ):
            their_name = their_name.replace(ours, their)
        theirs[their_name] = tensor
    torch.save(theirs, folder / "weights.pt")
    edit_config(folder, lambda tree: tree["predictor"].update(hidden_dim=inner))
    loaded = build_model(read_official(folder, encoder_heads=heads))
    assert loaded.predictor.input_proj.weight.shape == (inner, width)
    assert torch.equal(loaded.predictor.output_proj.weight, wide.predictor.output_proj.weight)


REFUSED = {
    "top target": (
        lambda t: t.update(_target_="os.system"),
        r"config.json: top._target_: found 'os.system', expected 'stable_worldmodel",
    ),
    "no target": (lambda t: t.pop("_target_"), "top._target_: found None"),
    "part target": (lambda t: t["predictor"].update(_target_="x.Y"), "predictor._target_: found 'x.Y'"),
    "hidden target": (
        lambda t: t["encoder"].update(more={"_target_": "x.Y"}),
        "encoder.more._target_: found 'x.Y', expected None",
    ),
    "other norm": (
        lambda t: t["projector"]["norm_fn"].update(_target_="torch.nn.LayerNorm"),
        "projector.norm_fn._target_",
    ),
    "no predictor": (lambda t: t.pop("predictor"), "config.json: found no predictor among"),
    "action width": (
        lambda t: t["action_encoder"].update(input_dim=7),
        "action_encoder.input_dim: found 7, expected a multiple of frame_skip 5",
    ),
    "size": (lambda t: t["encoder"].update(size="nano"), "encoder.size: found 'nano'"),
    "embedding dropout": (lambda t: t["predictor"].update(emb_dropout=0.1), "predictor.emb_dropout: found 0.1"),
    "depth": (
        lambda t: t["predictor"].update(depth=t["predictor"]["depth"] + 1),
        "tensors do not fit .* missing predictor.blocks",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_configs_are_refused(folder, case):
    change, message = REFUSED[case]
    edit_config(folder, change)
    with pytest.raises(ValueError, match=message):
        from_pretrained(f"official:{folder}")


def without(key):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key}


DAMAGED = {
    "unknown name": (
        lambda t: {**t, "encoder.pooler.dense.weight": torch.zeros(1)},
        r"unknown or double names, among them \['encoder.pooler.dense.weight'\]",
    ),
    "missing tensor": (
        without("predictor.transformer.norm.bias"),
        "1 tensors do not fit .* missing predictor.norm.bias",
    ),
    "missing key": (without("encoder.encoder.layer.0.attention.attention.key.bias"), "without its k or v"),
    "both spellings": (lambda t: {**t, **newer_names(t)}, "double names"),
    "not tensors": (lambda t: {"weights": t}, "found dict, expected a mapping of names to tensors"),
    "a pickled object": (lambda t: {"x": pytest.approx(1)}, "weights.pt: not a complete file of plain tensors"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_weights_are_refused(folder, heads, case):
    change, message = DAMAGED[case]
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        build_model(read_official(folder, encoder_heads=heads))


def test_truncated_weights_are_refused(folder):
    content = (folder / "weights.pt").read_bytes()
    (folder / "weights.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"weights.pt: not a complete file"):
        from_pretrained(f"official:{folder}")


def test_our_loader_points_at_the_prefix(folder):
    shutil.copyfile(folder / "weights.pt", folder / "model.safetensors")
    with pytest.raises(ValueError, match="write 'official:…'"):
        from_pretrained(folder)


def test_hub_ids_fetch_exactly_the_two_files(folder, heads, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    read_official("quentinll/lewm-pusht", encoder_heads=heads)
    assert asked == [("quentinll/lewm-pusht", None, ["config.json", "weights.pt"])]
