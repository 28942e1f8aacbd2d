"""Everything that reads files from outside: how to make a small one, how to read all of it, and what it must notice."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent
SMALL = {
    **{"image_size": 16, "frame_skip": 2, "history": 2, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8},
    **{"projector_hidden": 12, "predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1},
}


@dataclass(frozen=True)
class Subject:
    """``make(folder)`` writes into an existing folder, ``read(folder)`` returns arrays and texts by name.

    ``unprotected`` says of a file, by its path in the folder, that its format has no checksum over its content: what is
    changed there may arrive as other data of the same form.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], dict[str, object]]
    unprotected: Callable[[str], bool] = lambda _: False


def columns_of(source):
    """All rows of a data set, by column."""
    rows = np.concatenate([o + np.arange(n) for o, n in zip(source.offsets, source.lengths, strict=True)])
    return {"lengths": source.lengths, **{name: source.read(name, rows) for name in source.columns}}


# -- data sets -------------------------------------------------------------------------------------------------------
def make_store(folder):
    from jepakit.datamodules.store import Column, EpisodeWriter

    columns = {
        "pixels": Column(dtype="uint8", shape=(16, 16, 3), codec="jpeg"),
        "mask": Column(dtype="uint8", shape=(16, 16), codec="png"),
        "pixels_large": Column(dtype="uint8", shape=(40, 40, 3)),
        "action": Column(dtype="float32", shape=(2,)),
    }
    rng = np.random.default_rng(0)
    with EpisodeWriter(folder / "store", columns, settings={"seed": 3}, shard_bytes=30_000) as writer:
        for steps in (4, 6, 5):
            episode = {
                name: rng.integers(0, 250, (steps, *column.shape)).astype(column.dtype)
                for name, column in columns.items()
            }
            writer.append(episode)


def read_store(folder, *, verify=True):
    from jepakit.datamodules.readers import open_source

    source = open_source(folder / "store")
    damages = source.verify() if verify else []
    if damages:
        raise ValueError(str(damages[0]))
    return {"settings": str(source.settings), "complete": str(source.complete), **columns_of(source)}


def make_hdf5(folder):
    import h5py

    rng = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file["ep_len"], file["ep_offset"] = [5, 7], [0, 5]
        file["action"] = rng.normal(size=(12, 2)).astype(np.float32)
        file["state"] = rng.normal(size=(12, 3))
        pixels = rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
        file.create_dataset("pixels", data=pixels, chunks=(1, 16, 16, 3), compression="gzip")
        file["pixels"].attrs["encoding"] = "rgb"


def make_lance(folder):
    import io

    import lance
    import pyarrow as pa
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(12):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, "jpeg")
        pictures.append(buffer.getvalue())
    action = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=24).astype(np.float32)), 2)
    table = pa.table(
        {"episode_idx": np.repeat([0, 1], [5, 7]), "pixels": pa.array(pictures, pa.binary()), "action": action}
    )
    lance.write_dataset(table, str(folder / "data.lance"))


def make_dinowm(folder):
    samples().write_dinowm(folder / "pusht_noise")


def make_lerobot(folder):
    samples().write_lerobot(folder / "lerobot_set")


def samples():
    """The writers of the readers' own tests."""
    sys.path.insert(0, str(TESTS / "datamodules" / "readers"))
    import samples

    return samples


def read_data(name):
    """A reader of the data set called ``name``."""

    def read(folder):
        from jepakit.datamodules.readers import open_source

        return columns_of(open_source(folder / name))

    return read


def make_features(folder):
    make_store(folder)
    rng = np.random.default_rng(0)
    arrays = {f"episode_{e}": rng.normal(size=(n, 2, 3)).astype(np.float32) for e, n in enumerate((4, 6, 5))}
    np.savez(folder / "features.npz", **arrays)


def read_features(folder):
    import shutil

    from jepakit.datamodules.extracted import store_features
    from jepakit.datamodules.readers import open_source

    shutil.rmtree(folder / "features", ignore_errors=True)
    path = store_features(folder / "features.npz", open_source(folder / "store"), folder / "features")
    return columns_of(open_source(path))


# -- models ----------------------------------------------------------------------------------------------------------
def make_weights(folder):
    import torch

    from jepakit.zoo import LeWMModel, save_pretrained

    torch.manual_seed(0)
    save_pretrained(LeWMModel(SMALL), folder / "weights")


def read_weights(folder):
    from jepakit.zoo import load_model

    return state_of(load_model(folder / "weights"))


def make_official(folder):
    import shutil

    for name in ("config.json", "weights.pt"):
        shutil.copyfile(TESTS / "fixtures" / "lewm_official_layout" / name, folder / name)


def read_official(folder):
    import json

    from jepakit.zoo.lewm.official import read_official as read
    from jepakit.zoo.weights import build_model

    heads = json.loads((TESTS / "fixtures" / "lewm_official_layout" / "config.json").read_text())["fixture_encoder"]
    return state_of(build_model(read(folder, encoder_heads=heads["num_attention_heads"])))


def state_of(model):
    """Config and tensors of a model."""
    return {"config": str(model.config), **{name: value.numpy() for name, value in model.state_dict().items()}}


def encoder_config():
    from jepakit.zoo.frozen import FrozenEncoderConfig

    sizes = {"patch_size": 7, "vit_width": 12, "vit_depth": 1, "vit_heads": 2, "vit_mlp": 24}
    return FrozenEncoderConfig(encoder="vit", encoder_size=14, image_size=14, frame_skip=2, action_dim=3, **sizes)


def make_encoder(folder):
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=14, patch_size=7, **sizes)).save_pretrained(folder / "encoder")


def read_encoder(folder):
    from jepakit.zoo.encoder_weights import read_encoder as read

    return {name: value.numpy() for name, value in read(folder / "encoder", encoder_config()).items()}


def make_readout(folder):
    import torch

    from jepakit.zoo.readout import Readout

    torch.manual_seed(0)
    readout = Readout(["x", "y"], 8)
    readout.weight.normal_()
    readout.save(folder / "readout.safetensors")


def read_readout(folder):
    from jepakit.zoo.readout import Readout

    readout = Readout.load(folder / "readout.safetensors")
    return {"names": str(readout.names), "weight": readout.weight.numpy(), "bias": readout.bias.numpy()}


def make_bundle(folder):
    import torch

    from jepakit.export import export_bundle
    from jepakit.zoo import PLDMModel

    torch.manual_seed(0)
    small = {**SMALL, "history": 1, "predictor": "recurrent", "recurrent_hidden": 8}
    export_bundle(PLDMModel(small).eval(), folder / "bundle", horizon=1)


def read_bundle(folder):
    from jepakit.export import Bundle

    bundle = Bundle.open(folder / "bundle")
    return {file.name: file.read_bytes() for file in sorted(bundle.folder.iterdir())}


# -- results ---------------------------------------------------------------------------------------------------------
def make_tasks(folder):
    from jepakit.planning.evaluation import draw_tasks

    tasks = draw_tasks(
        {3: np.arange(40.0)[:, None]},
        lambda state, goal: False,
        **{"count": 5, "offset": 10, "seed": 0, "environment": "Line", "data_fingerprint": "abc"},
    )
    tasks.save(folder / "tasks.json")


def read_tasks(folder):
    from jepakit.planning.evaluation import Manifest

    return {"tasks": str(Manifest.load(folder / "tasks.json"))}


def make_results(folder):
    from jepakit.planning.evaluation.files import write_json
    from jepakit.planning.evaluation.provenance import machine

    policy = {"rate": 0.94, "interval95": [0.838, 0.979], "median_steps": 12.5, "latency_ms": {"p50": 8.5, "p95": 9.25}}
    evaluation = {
        **{"environment": "TwoRoom", "budget": 50, "settings": {"fingerprint": "ab"}, "machine": machine()},
        "tasks": {"sha256": "ab" * 32, "split": "test", "offset": 25, "count": 50, "excluded": 2},
        "policies": {"lewm": {**policy, "curve": [0.0, 0.5, 0.94]}, "random": {**policy, "latency_ms": None}},
    }
    write_json(folder / "evaluation.json", evaluation)
    write_json(folder / "probe.json", {"measured": [{"step": 9, "weights": "ab", "values": {"r2": 0.5, "gap": None}}]})
    data = {"name": "TwoRoom", "episodes": 12, "fingerprint": "cd"}
    record = {"machine": {"system": "Linux", "architecture": "x86_64", "cpus": 2}, "versions": {"python": "3.11"}}
    write_json(folder / "training.json", {"command": "lightning fit", "steps": 9, "data": data, **record})


def read_results(folder):
    from jepakit.results import read_evaluation, read_probe, read_training

    return {
        "evaluation": str(read_evaluation(folder / "evaluation.json")),
        "probe": str(read_probe(folder / "probe.json")),
        "training": str(read_training(folder / "training.json")),
    }


def everything(_):
    return True


SUBJECTS = {
    "store": Subject(make_store, read_store),
    "store without verify": Subject(
        make_store,
        lambda folder: read_store(folder, verify=False),
        lambda file: not file.endswith(("manifest.json", "lengths.npy")),
    ),
    "hdf5": Subject(make_hdf5, read_data("data.h5"), everything),
    "lance": Subject(make_lance, read_data("data.lance"), everything),
    "dinowm": Subject(make_dinowm, read_data("pusht_noise"), everything),
    "lerobot": Subject(make_lerobot, read_data("lerobot_set"), everything),
    "features": Subject(make_features, read_features, everything),
    "weights": Subject(make_weights, read_weights),
    "official": Subject(make_official, read_official, everything),
    "encoder": Subject(make_encoder, read_encoder, everything),
    "readout": Subject(make_readout, read_readout, everything),
    "bundle": Subject(make_bundle, read_bundle),
    "task list": Subject(make_tasks, read_tasks),
    "results": Subject(make_results, read_results, everything),
}
