"""A pickle is planted wherever a file could hide one; it is refused by name, and nothing of it runs."""

import pickle
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from jepakit import cli
from jepakit.datamodules.extracted import store_features
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter
from jepakit.datamodules.store.manifest import sha256_of
from jepakit.zoo import from_pretrained
from jepakit.zoo.readout import Readout

FIXTURES = Path(__file__).parent.parent / "fixtures"
ROOT = Path(__file__).parent.parent.parent


def test_the_bomb_is_one(bomb):
    pickle.loads(pickle.dumps(bomb))
    assert bomb.trace.is_dir()
    bomb.trace.rmdir()


def plant(file, bomb):
    """An array of objects, which ``np.load`` would unpickle if it were allowed to."""
    np.save(file, np.array([bomb], dtype=object), allow_pickle=True)


@pytest.fixture
def store(tmp_path):
    columns = {
        "pixels": Column(dtype="uint8", shape=(8, 8, 3), codec="png"),
        "action": Column(dtype="float32", shape=(2,)),
    }
    with EpisodeWriter(tmp_path / "store", columns) as writer:
        writer.append({"pixels": np.zeros((4, 8, 8, 3), np.uint8), "action": np.zeros((4, 2), np.float32)})
    return tmp_path / "store"


@pytest.mark.parametrize("name", ["lengths.npy", "action.npy", "pixels.index.npy"])
def test_in_a_store(store, bomb, name, monkeypatch):
    file = store / "shard-00000" / name
    plant(file, bomb)
    monkeypatch.setattr(EpisodeStore, "_check_sizes", lambda *_: None)  # which would notice before
    with pytest.raises(ValueError, match=rf"{name}: not a \.npy file of numbers"):
        EpisodeStore(store).read(name.partition(".")[0], np.arange(4))


def test_in_a_store_whose_maker_knows_the_manifest(store, bomb):
    """Size, hash and dtype of the manifest are made to fit: numbers are expected nevertheless."""
    import json

    from jepakit.datamodules.store.manifest import fingerprint_of

    file = store / "shard-00000" / "action.npy"
    plant(file, bomb)
    content = json.loads((store / "manifest.json").read_text())
    content["shards"][0]["files"]["action.npy"] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    for dtype, said in (
        ("float32", r"action\.npy: not a \.npy file of numbers"),
        ("object", r"columns\.action: found"),
    ):
        content["columns"]["action"].update(dtype=dtype, shape=[])
        body = {key: value for key, value in content.items() if key != "sha256"}
        (store / "manifest.json").write_text(json.dumps({**body, "sha256": fingerprint_of(body)}))
        with pytest.raises(ValueError, match=said):
            EpisodeStore(store).read("action", np.arange(4))


@pytest.mark.parametrize("key", ["ep_len", "pixels", "action", "state"])
def test_in_hdf5(tmp_path, bomb, key):
    file = tmp_path / "data.h5"
    shutil.copy(FIXTURES / "datasets" / "pusht_sample.h5", file)
    file.chmod(0o644)
    data = np.void(pickle.dumps(bomb))
    with h5py.File(file, "r+") as content:
        content[key].attrs["note"] = data
        content.attrs["note"] = data
    assert open_source(file).read("action", np.arange(3)).shape == (3, 2)  # attributes are left alone
    with h5py.File(file, "r+") as content:
        rows = len(content[key])
        del content[key]
        content[key] = np.array([data] * rows)
    with pytest.raises(ValueError, match=r"data\.h5"):
        open_source(file)


def test_in_extracted_features(store, tmp_path, bomb):
    np.savez(tmp_path / "slots.npz", **{"0": np.array([bomb], dtype=object)})
    with pytest.raises(ValueError, match=r"slots\.npz: cannot be read"):
        store_features(tmp_path / "slots.npz", open_source(store), tmp_path / "features")


def test_in_the_authors_layout(tmp_path, bomb):
    shutil.copy(FIXTURES / "lewm_official_layout" / "config.json", tmp_path)
    for planted in (bomb, {"encoder.weight": bomb}):
        torch.save(planted, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=r"weights\.pt: not a complete file of plain tensors"):
            from_pretrained(f"official:{tmp_path}")
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match=r"weights\.pt: not a complete file of plain tensors"):
        from_pretrained(f"official:{tmp_path}")


def test_in_place_of_safetensors(tmp_path, bomb):
    file = tmp_path / "readout.safetensors"
    torch.save(bomb, file)
    with pytest.raises(ValueError, match=r"readout\.safetensors: not a readout"):
        Readout.load(file)


@pytest.fixture
def checkpoint(tmp_path, bomb):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "callbacks": bomb}, tmp_path / "evil.ckpt")
    return tmp_path / "evil.ckpt"


@pytest.fixture
def small_run(tmp_path):
    flags = {
        **{"data.generate.root": tmp_path / "data", "data.generate.episodes": 12, "data.generate.steps": 30},
        **{"data.generate.workers": 1, "trainer.max_steps": 1, "trainer.logger": "false"},
        "trainer.default_root_dir": tmp_path,
    }
    config = ["-c", str(ROOT / "configs" / "demo.yaml")]
    return ["fit", *config, *(f"--{name}={value}" for name, value in flags.items())]


def test_in_a_checkpoint_to_resume_from(checkpoint, small_run, capsys):
    assert cli.main([*small_run, "--ckpt_path", str(checkpoint)]) == 1
    assert "Weights only load failed" in capsys.readouterr().err
    assert cli.main([*small_run, "--ckpt_path", str(checkpoint), "--weights_only", "false"]) == 1
    assert "weights_only: found false, expected true" in capsys.readouterr().err


def test_in_a_checkpoint_behind_an_address(checkpoint, small_run, capsys, monkeypatch, tmp_path):
    """Lightning's own default unpickles these."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    handler = partial(SimpleHTTPRequestHandler, directory=checkpoint.parent)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/{checkpoint.name}"
        assert cli.main([*small_run, "--ckpt_path", address]) == 1
        server.shutdown()
    assert "Weights only load failed" in capsys.readouterr().err
