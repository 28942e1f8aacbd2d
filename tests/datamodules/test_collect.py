"""Collection: reproducible, parallel, atomic, resumable."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jepakit.datamodules import collect as collect_module
from jepakit.datamodules.collect import collect
from jepakit.datamodules.store import MANIFEST, EpisodeStore
from jepakit.envs.tworoom import TwoRoom


def rows_of(store, column):
    return store.read(column, np.arange(store.lengths.sum()))


def test_the_same_settings_give_the_same_bytes_with_any_number_of_processes(tiny_collection, tiny_store, tmp_path):
    again = collect(tiny_collection, tmp_path, workers=2)
    assert again.name == tiny_store.name
    for column in ("pixels", "action", "state", "proprio", "contact"):
        np.testing.assert_array_equal(rows_of(EpisodeStore(again), column), rows_of(EpisodeStore(tiny_store), column))


def test_rows_are_what_the_environment_does(tiny_store):
    store = EpisodeStore(tiny_store)
    env = TwoRoom(image_size=32)
    for episode in (0, 27):
        first = store.offsets[episode]
        rows = first + np.arange(store.lengths[episode])
        states, actions, pixels = (store.read(name, rows) for name in ("state", "action", "pixels"))
        env.set_state(states[0])
        for step in range(len(rows) - 1):
            np.testing.assert_allclose(env.state, states[step], atol=1e-4)
            np.testing.assert_allclose(env.render().astype(int), pixels[step].astype(int), atol=1)
            env.advance(actions[step])
        assert np.isnan(actions[-1]).all()
        assert np.isfinite(actions[:-1]).all()


def test_other_settings_make_another_data_set(tiny_collection):
    names = {
        replace(tiny_collection, **change).directory(collect_module.Path("."))
        for change in ({}, {"seed": 1}, {"steps": 41}, {"episodes": 31}, {"image_size": 48}, {"revision": 2})
    }
    assert len(names) == 6


def test_an_interrupted_generation_looks_incomplete_and_is_continued(tiny_collection, tmp_path, monkeypatch):
    written = []
    original = collect_module._write_one

    def killed_after_one(settings, root, shard):
        if written:
            raise KeyboardInterrupt
        written.append(shard)
        return original(settings, root, shard)

    monkeypatch.setattr(collect_module, "_write_one", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        collect(tiny_collection, tmp_path, workers=1)
    assert not tiny_collection.directory(tmp_path).exists()
    monkeypatch.setattr(collect_module, "_write_one", original)
    reports = []
    path = collect(tiny_collection, tmp_path, workers=1, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(30, 30)]  # 25 episodes were kept
    assert len(EpisodeStore(path).lengths) == 30


def test_a_shard_that_fails_leaves_nothing(tiny_collection, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        collect(tiny_collection, tmp_path, workers=1)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob(MANIFEST))


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_encoded_frames_come_back(tiny_collection, tiny_store, tmp_path, codec):
    encoded = EpisodeStore(collect(replace(tiny_collection, frames=codec), tmp_path, workers=1))
    raw = rows_of(EpisodeStore(tiny_store), "pixels").astype(int)
    difference = np.abs(rows_of(encoded, "pixels").astype(int) - raw)
    assert difference.max() == 0 if codec == "png" else difference.mean() < 2
    size = {path: sum(f.stat().st_size for f in path.rglob("pixels.*")) for path in (encoded.path, tiny_store)}
    assert size[encoded.path] < size[tiny_store]


def test_damage_is_named(tiny_store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_store, copy)
    pixels = copy / "shard-00001" / "pixels.npy"
    pixels.write_bytes(pixels.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"shard-00001/pixels\.npy: \d+ bytes, expected \d+ bytes"):
        EpisodeStore(copy)
    pixels.unlink()
    with pytest.raises(ValueError, match=r"pixels\.npy: missing"):
        EpisodeStore(copy)
    manifest = copy / MANIFEST
    manifest.write_text(manifest.read_text()[:50])
    with pytest.raises(ValueError, match=r"manifest\.json: unreadable"):
        EpisodeStore(copy)
    manifest.write_text(json.dumps({"format": "jepakit-episodes", "version": 99}))
    with pytest.raises(ValueError, match="expected"):
        EpisodeStore(copy)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        EpisodeStore(copy)


def test_unknown_columns_are_named(tiny_store):
    with pytest.raises(KeyError, match="reward"):
        EpisodeStore(tiny_store).read("reward", np.arange(3))
