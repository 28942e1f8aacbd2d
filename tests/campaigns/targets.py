"""What is fuzzed: bytes become a file of a small store, or a manifest; our error or valid content, nothing else.

The first byte chooses the file, the rest is its content. JSON gets the hash that belongs to it, as from a writer who
knows the format: otherwise nothing behind the check of the hash would ever be reached.
"""

import copy
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter
from jepakit.export.bundle import (
    MANIFEST,
    SCHEMA,
    _plain_graphs,
    _read_graphs,
    _read_manifest,
    _render,
    graphs_of,
    plain_spec,
    read_spec,
)
from jepakit.planning import PlannerSpec
from jepakit.planning.evaluation import Manifest, draw_tasks

INDEX_FILES = ("lengths.npy", "mask.index.npy", "action.npy", "mask.bin")


class Target:
    """``seeds`` are valid inputs; calling it with bytes raises ``AssertionError`` for what must not happen."""

    def __init__(self):
        # In memory, where the system has a file system for that: a file is written for every input.
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(dir=shared))

    def close(self):
        shutil.rmtree(self.folder)

    def __call__(self, data):
        try:
            self.read(data[0] if data else 0, data[1:])
        except (ValueError, FileNotFoundError) as error:
            if type(error) not in (ValueError, FileNotFoundError) or str(self.folder) not in str(error):
                raise AssertionError(f"not ours, or names no file: {error!r}") from error


class StoreIndex(Target):
    """The files of a shard, of which the manifest says what size and hash they have."""

    def __init__(self):
        super().__init__()
        write_store(self.folder / "store")
        self.shard = self.folder / "store" / "shard-00000"
        self.files = {name: (self.shard / name).read_bytes() for name in INDEX_FILES}
        self.manifest = json.loads((self.folder / "store" / "manifest.json").read_text())
        self.seeds = [bytes([number]) + content for number, content in enumerate(self.files.values())]

    def read(self, choice, content):
        name = INDEX_FILES[choice % len(INDEX_FILES)]
        manifest = copy.deepcopy(self.manifest)
        record = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["shards"][0]["files"][name] = record
        for file, original in self.files.items():
            (self.shard / file).write_bytes(content if file == name else original)
        (self.folder / "store" / "manifest.json").write_bytes(signed(json.dumps(manifest).encode()))
        read_store(self.folder / "store")


class Manifests(Target):
    """The manifests of a bundle, of a task list and of a store."""

    def __init__(self):
        super().__init__()
        write_store(self.folder / "store")
        draw_tasks(
            {3: np.arange(9.0)[:, None]},
            lambda state, goal: False,
            **{"count": 2, "offset": 3, "seed": 0, "environment": "Line", "data_fingerprint": "abc"},
        ).save(self.folder / "tasks.json")
        store, tasks = (self.folder / name for name in ("store/manifest.json", "tasks.json"))
        self.seeds = [b"\0" + bundle_manifest(), b"\1" + tasks.read_bytes(), b"\2" + store.read_bytes()]

    def read(self, choice, content):
        (self._bundle, self._tasks, self._store)[choice % 3](content)

    def _bundle(self, content):
        file = self.folder / MANIFEST
        with suppress(ValueError, AttributeError, RecursionError):  # no JSON object: as it is
            content = _render(json.loads(content)).encode()
        file.write_bytes(content)
        manifest = _read_manifest(file)
        try:
            spec = read_spec(manifest["spec"])
            _read_graphs(manifest["graphs"], spec)
        except ValueError as error:  # as Bundle.open does
            raise ValueError(f"{file}: {error}") from error
        assert plain_spec(read_spec(plain_spec(spec))) == plain_spec(spec)

    def _tasks(self, content):
        file = self.folder / "tasks.json"
        file.write_bytes(signed(content, outside=("schema",), separators=(",", ":")))
        loaded = Manifest.load(file)
        loaded.save(self.folder / "again.json")
        assert Manifest.load(self.folder / "again.json") == loaded

    def _store(self, content):
        (self.folder / "store" / "manifest.json").write_bytes(signed(content))
        read_store(self.folder / "store")


def write_store(folder):
    columns = {"mask": Column(dtype="uint8", shape=(4, 4), codec="png"), "action": Column(dtype="float32", shape=(2,))}
    with EpisodeWriter(folder, columns, settings={"seed": 3}) as writer:
        for steps in (2, 3):
            mask = np.eye(4, dtype=np.uint8)[None].repeat(steps, 0)
            writer.append({"mask": mask, "action": np.ones((steps, 2), np.float32)})


def read_store(folder):
    """What opens must be consistent in itself, and readable or refused."""
    store = EpisodeStore(folder)
    assert store.lengths.shape == store.offsets.shape
    rows = np.arange(min(int(store.lengths.sum()), 5))
    for name, column in store.columns.items():
        assert store.read(name, rows).shape == (len(rows), *column.shape)


def bundle_manifest():
    """The manifest of a bundle, without the files that it names."""
    numbers = {name: np.ones(2, np.float32) for name in ("action_mean", "action_std", "action_low", "action_high")}
    sizes = {"image_size": 4, "history": 2, "frame_skip": 1, "action_dim": 2, "tokens": 1, "width": 2, "horizon": 3}
    spec = PlannerSpec(**sizes, **numbers)
    values = {
        **{"schema": SCHEMA, "jepakit": "0", "model": {}, "opset": 20, "precision": "fp32", "planner": None},
        **{"verification": {}, "spec": plain_spec(spec), "graphs": _plain_graphs(graphs_of(spec)), "files": {}},
        "licence": "MIT",
    }
    return _render(values).encode()


def signed(content, outside=(), separators=None):
    """JSON with the hash over it, but for the fields ``outside`` of that; anything else as it is."""
    try:
        values = json.loads(content)
        body = {key: value for key, value in values.items() if key not in ("sha256", *outside)}
        hashed = hashlib.sha256(json.dumps(body, sort_keys=True, separators=separators).encode())
        return json.dumps({**values, "sha256": hashed.hexdigest()}).encode()
    except (ValueError, AttributeError, RecursionError):
        return content


TARGETS = {"store-index": StoreIndex, "manifests": Manifests}
