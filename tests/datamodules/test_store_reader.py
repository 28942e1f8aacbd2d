"""Reading stores: from many processes, and what is said about damage."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest

from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter

COLUMNS = {
    "pixels": Column(dtype="uint8", shape=(48, 48, 3)),  # large enough to be read, not mapped
    "pixels_png": Column(dtype="uint8", shape=(16, 16, 3), codec="png"),
    "pixels_jpeg": Column(dtype="uint8", shape=(16, 16, 3), codec="jpeg"),
    "mask": Column(dtype="uint8", shape=(16, 16), codec="png"),
    "action": Column(dtype="float32", shape=(2,)),
    "contact": Column(dtype="bool", shape=()),
}


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 16)
    smooth = np.stack([np.add.outer(ramp, ramp) / 2 + shift for shift in range(60)])  # what JPEG is made for
    return {
        "pixels": rng.integers(0, 255, (60, 48, 48, 3), dtype=np.uint8),
        "pixels_png": rng.integers(0, 255, (60, 16, 16, 3), dtype=np.uint8),
        "pixels_jpeg": np.repeat(np.minimum(smooth, 255)[..., None], 3, axis=3).astype(np.uint8),
        "mask": rng.integers(0, 5, (60, 16, 16), dtype=np.uint8),
        "action": rng.standard_normal((60, 2)).astype(np.float32),
        "contact": rng.random(60) > 0.5,
    }


@pytest.fixture
def path(content, tmp_path):
    with EpisodeWriter(tmp_path / "s", COLUMNS, shard_bytes=1) as writer:  # a shard per episode
        for first in range(0, 60, 10):
            writer.append({name: rows[first : first + 10] for name, rows in content.items()})
    return tmp_path / "s"


def test_rows_come_in_the_order_asked_for_from_all_shards(path, content):
    store = EpisodeStore(path)
    rows = np.random.default_rng(1).integers(0, 60, 100)
    for name, expected in content.items():
        out = np.empty((100, *COLUMNS[name].shape), COLUMNS[name].dtype)
        assert store.read(name, rows, out) is out
        difference = np.abs(out.astype(float) - expected[rows].astype(float))
        assert difference.max() <= (4 if name == "pixels_jpeg" else 0)
        assert store.read(name, rows[:0]).shape == (0, *COLUMNS[name].shape)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_an_open_store(path, content, method):
    store = EpisodeStore(path)
    for name in COLUMNS:
        store.read(name, np.arange(60))  # everything is open before the processes start
    with multiprocessing.get_context(method).Pool(2) as pool:
        jobs = [(store, name, np.random.default_rng(seed).permutation(60)) for name in COLUMNS for seed in range(4)]
        for (_, name, rows), found in zip(jobs, pool.starmap(EpisodeStore.read, jobs), strict=True):
            np.testing.assert_array_equal(found, store.read(name, rows))
        np.testing.assert_array_equal(store.read("pixels", np.arange(60)), content["pixels"])


def test_pickled_stores_carry_no_open_files(path):
    store = EpisodeStore(path)
    before = len(pickle.dumps(store))
    store.read("pixels", np.arange(60))
    assert len(pickle.dumps(store)) == before


def test_open_files_are_few_and_closed(path):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    store = EpisodeStore(path)
    store._files._limit = 3
    for _ in range(3):
        store.read("pixels", np.random.default_rng(0).permutation(60))
    assert open_files() == before + 3
    del store
    assert open_files() == before


def test_wrong_reads_are_refused(path):
    store = EpisodeStore(path)
    with pytest.raises(KeyError, match="reward"):
        store.read("reward", np.arange(3))
    with pytest.raises(IndexError, match="rows 59 to 60, expected 0 to 59"):
        store.read("action", np.array([59, 60]))
    with pytest.raises(IndexError, match="rows -1"):
        store.read("pixels", np.array([-1]))
    with pytest.raises(ValueError, match=r"out: found float64 \(2, 2\), expected contiguous float32 \(2, 2\)"):
        store.read("action", np.arange(2), np.empty((2, 2)))


def test_every_damaged_byte_is_found_and_opening_stays_cheap(path):
    store = EpisodeStore(path)
    reports = []
    assert store.verify(lambda done, total: reports.append((done, total))) == []
    assert reports[-1][0] == reports[-1][1] > 0
    for file, place in (("pixels.npy", 5000), ("pixels_png.index.npy", -1), ("pixels_png.bin", 0)):
        damaged = path / "shard-00002" / file
        data = bytearray(damaged.read_bytes())
        data[place] ^= 1
        damaged.write_bytes(data)
        (damage,) = EpisodeStore(path).verify()
        assert str(damage) == f"{damaged}: its SHA-256 is not the recorded one (episodes 2 to 2)"
        data[place] ^= 1
        damaged.write_bytes(data)


def test_lengths_that_were_changed_are_refused_when_opened(path):
    file = path / "shard-00002" / "lengths.npy"
    np.save(file, np.load(file) + 1)
    with pytest.raises(ValueError, match=r"shard-00002/lengths\.npy: not what was written"):
        EpisodeStore(path)


@pytest.mark.parametrize("name", ["pixels_png", "pixels_jpeg"])
def test_undecodable_frames_name_file_and_episode(path, name):
    file = path / "shard-00003" / f"{name}.bin"
    index = np.load(path / "shard-00003" / f"{name}.index.npy")
    data = bytearray(file.read_bytes())
    data[index[7] : index[8]] = bytes(index[8] - index[7])
    file.write_bytes(data)
    store = EpisodeStore(path)
    store.read(name, np.array([36, 38]))
    with pytest.raises(ValueError, match=rf"shard-00003/{name}\.bin: frame 7 of episode 3 cannot be read"):
        store.read(name, np.array([36, 37]))


def test_a_file_of_another_type_is_named(path):
    file = path / "shard-00001" / "action.npy"
    rows = np.load(file)
    np.save(file, rows.view(np.int32))
    with pytest.raises(ValueError, match=r"action\.npy: found int32 of shape \(10, 2\), expected float32 of shape"):
        EpisodeStore(path).read("action", np.array([10]))


def test_columns_that_cannot_be_encoded_are_refused():
    with pytest.raises(ValueError, match="found float32 rows"):
        Column(dtype="float32", shape=(8, 8, 3), codec="png")
    with pytest.raises(ValueError, match=r"codec 'jpeg' of a column: found uint8 rows of \(8, 8\)"):
        Column(dtype="uint8", shape=(8, 8), codec="jpeg")
    with pytest.raises(ValueError, match="found 'gif', expected one of raw, png, jpeg"):
        Column(dtype="uint8", shape=(8, 8, 3), codec="gif")
