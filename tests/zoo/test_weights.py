import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from jepakit.zoo import LeWM, LeWMModel, WorldModelModule, from_pretrained, load_model, save_pretrained
from jepakit.zoo.files import fingerprint
from jepakit.zoo.registry import REGISTRY, Entry


@pytest.fixture
def saved(model, tmp_path):
    return save_pretrained(model, tmp_path / "model")


def every_verb(model, batch):
    with torch.no_grad():
        z = model.encode({"pixels": batch["pixels"]})
        rolled = model.rollout(z[:, :2], batch["action"][:, :1], batch["action"].unsqueeze(1))
        return z, model.predict(z[:, :3], batch["action"][:, :3]), rolled, model.goal_cost(rolled[:, :, -1], z[:, 0])


@pytest.mark.parametrize("load", [from_pretrained, load_model, LeWM.from_pretrained, WorldModelModule.from_pretrained])
def test_a_round_trip_keeps_every_output_bit(model, saved, batch, load):
    loaded = load(saved)
    assert not loaded.training
    for before, after in zip(every_verb(model, batch), every_verb(loaded, batch), strict=True):
        assert torch.equal(before, after)


def test_the_lightning_class_saves_and_loads(small, batch, tmp_path):
    module = LeWM(config=small, optimizer={"lr": 1e-3}).eval()
    loaded = from_pretrained(module.save_pretrained(tmp_path / "a" / "b"))
    assert isinstance(loaded, LeWM)
    assert torch.equal(loaded.encode(batch), module.encode(batch))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_saved_in_float32(model, tmp_path, precision):
    trained = model.to(precision)
    loaded = load_model(save_pretrained(trained, tmp_path / "model"))
    for name, value in trained.state_dict().items():
        expected = value.float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], expected)
        assert loaded.state_dict()[name].dtype == expected.dtype
    assert fingerprint(loaded) == fingerprint(trained)


def test_the_files_hold_plain_values_and_all_buffers(model, saved, statistics):
    assert sorted(os.listdir(saved)) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert set(config) == {"model", "jepakit", "config", "sha256", "config_sha256"}
    assert config["model"] == "lewm"
    assert config["config"]["cnn_channels"] == [4, 6]
    tensors = load_file(saved / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert tensors["action_std"].tolist() == statistics.action_std.tolist()


def test_saving_again_replaces_both_files(model, saved, batch):
    with torch.no_grad():
        model.projector.contract.bias.add_(1.0)
    save_pretrained(model, saved)
    assert sorted(os.listdir(saved)) == ["config.json", "model.safetensors"]
    assert torch.equal(load_model(saved).encode(batch), model.encode(batch))


def test_a_failed_save_leaves_what_was_there(model, saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def fail(source, destination):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"model.safetensors: cannot be written \(no space left\)"):
        save_pretrained(model, saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def edit_config(saved, **changes):
    file = saved / "config.json"
    values = json.loads(file.read_text()) | {"config_sha256": None} | changes  # or that would be the complaint
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_tensors(saved, change):
    file = saved / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    edit_config(saved, sha256=None)  # or the hash would be the complaint


def model_config(saved, **changes):
    values = json.loads((saved / "config.json").read_text())["config"]
    edit_config(saved, config=values | changes)


DAMAGE = {
    "no weights": (
        lambda d: (d / "model.safetensors").unlink(),
        r"model.safetensors: no such file; found \['config.json'\]",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json: no such file"),
    "truncated": (
        lambda d: os.truncate(d / "model.safetensors", 3000),
        "model.safetensors: not a complete safetensors file .* 3000 bytes",
    ),
    "a flipped bit": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-1] + b"!"),
        "model.safetensors: sha256: found .*, expected .*: not the file that was saved with it",
    ),
    "a huge header": (
        lambda d: (d / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}"),
        "not a complete safetensors file",
    ),
    "empty": (lambda d: os.truncate(d / "model.safetensors", 0), "model.safetensors: not a complete safetensors file"),
    "a pickle": (
        lambda d: (d / "model.safetensors").write_bytes(pickle.dumps({"a": 1})),
        "not a complete safetensors file",
    ),
    "an edited config": (
        lambda d: (d / "config.json").write_text((d / "config.json").read_text().replace("latent_dim", "latent_din")),
        "config.json: config_sha256: does not fit the file, which was changed",
    ),
    "half a config": (lambda d: os.truncate(d / "config.json", 40), "config.json: not readable as JSON"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), "config.json: found list, expected a JSON object"),
    "no name": (lambda d: edit_config(d, model=None), r"config.json: found keys \['config', 'jepakit', 'sha256'\]"),
    "extra key": (lambda d: edit_config(d, code="x"), "config.json: found keys .*'code'"),
    "unknown family": (
        lambda d: edit_config(d, model="os.system"),
        r"config.json: model: found 'os.system', expected one of \[.*'lewm'",
    ),
    "name of no text": (lambda d: edit_config(d, model=["lewm"]), r"config.json: model: found \['lewm'\]"),
    "unknown field": (lambda d: model_config(d, widht=3), "config.json: config: unknown key 'widht'"),
    "wrong type": (lambda d: model_config(d, latent_dim="8"), "config.json: config.latent_dim: found '8'"),
    "other size": (
        lambda d: model_config(d, latent_dim=9),
        r"model.safetensors: \d+ tensors do not fit .*expected torch.float32 \(\d*9",
    ),
    "missing tensor": (
        lambda d: edit_tensors(d, lambda t: t.pop("action_mean")),
        "1 tensors do not fit .* missing action_mean",
    ),
    "extra tensor": (lambda d: edit_tensors(d, lambda t: t.update(more=torch.zeros(1))), "unexpected more"),
    "other dtype": (
        lambda d: edit_tensors(d, lambda t: t.update(action_mean=torch.zeros(6).half())),
        "action_mean: found torch.float16",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_damaged_checkpoints_are_refused_by_name(saved, case):
    damage, message = DAMAGE[case]
    damage(saved)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        from_pretrained(saved)


class OtherModel(LeWMModel):
    name = "other"


class Other(LeWM):
    pass


@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_a_checkpoint_of_another_family_is_refused(saved, monkeypatch):
    entry = Entry(model="m:Other", config=REGISTRY["lewm"].config, module="jepakit.zoo.module:WorldModelModule")
    monkeypatch.setitem(REGISTRY, "other", entry)
    edit_config(saved, model="other")
    with pytest.raises(ValueError, match="found a checkpoint of WorldModelModule, expected LeWM; load it with"):
        LeWM.from_pretrained(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing-here: no such folder; expected a folder with config.json"):
        from_pretrained(tmp_path / "nothing-here")


@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_what_could_be_a_folder_or_a_hub_id_is_refused(saved, monkeypatch):
    monkeypatch.chdir(saved.parent.parent)
    ambiguous = f"{saved.parent.name}/{saved.name}"
    with pytest.raises(ValueError, match=f"write './{ambiguous}' for the folder or 'hub:{ambiguous}' for the Hub"):
        from_pretrained(ambiguous)
    assert isinstance(from_pretrained(f"./{ambiguous}"), LeWM)


@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_a_revision_belongs_to_the_hub(saved):
    with pytest.raises(ValueError, match="revision: found 'main' with the folder"):
        from_pretrained(saved, revision="main")


@pytest.mark.parametrize("source", ["org/name", "hub:org/name"])
@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_hub_ids_fetch_exactly_the_two_files(saved, monkeypatch, source):
    import huggingface_hub

    asked = []

    def download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert isinstance(from_pretrained(source, revision="v1"), LeWM)
    assert asked == [("org/name", "v1", ["config.json", "model.safetensors"])]
