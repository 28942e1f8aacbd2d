import h5py
import numpy as np
import pytest

from jepakit.datamodules.extracted import store_features
from jepakit.datamodules.joined import JoinedSource
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.store import EpisodeWriter


@pytest.fixture
def data(tiny_store):
    return open_source(tiny_store)


@pytest.fixture
def features(data):
    rng = np.random.default_rng(0)
    return {f"episode_{e}": rng.normal(size=(length, 3, 5)).astype(np.float32) for e, length in enumerate(data.lengths)}


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    return path


@pytest.mark.parametrize("name", ["slots.npz", "slots.h5"])
@pytest.mark.parametrize("key", ["episode_{}", "{:05d}", "train/{}"])
def test_every_row_arrives_beside_its_own(data, features, tmp_path, name, key):
    arrays = {key.format(e): features[f"episode_{e}"] for e in reversed(range(len(features)))}
    path = store_features(write(tmp_path / name, arrays), data, tmp_path / "store")
    joined = JoinedSource(data, open_source(path), "features")
    rows = data.offsets[[7, 2, 29]] + [3, 0, 39]
    expected = [features["episode_7"][3], features["episode_2"][0], features["episode_29"][39]]
    assert np.array_equal(joined.read("features", rows), expected)
    assert np.array_equal(joined.read("state", rows), data.read("state", rows))


def changed(features, name, value):
    return {**features, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {k: v for k, v in f.items() if k != "episode_4"}, r"expected one for each of 30 .* surplus: \[4\]"),
        (lambda f: changed(f, "episode_30", f["episode_0"]), r"missing or surplus: \[30\]"),
        (lambda f: changed(f, "4", f["episode_4"]), "some numbers occur twice"),
        (lambda f: changed(f, "names", f["episode_0"]), "found the key 'names', expected keys that end in"),
        (lambda f: changed(f, "episode_3", f["episode_3"][:-1]), r"'episode_3': found float32 of shape \(39, 3, 5\)"),
        (lambda f: changed(f, "episode_3", f["episode_3"][:, :2]), r"'episode_3': found float32 of shape \(40, 2, 5\)"),
        (lambda f: changed(f, "episode_3", f["episode_3"].astype(int)), "'episode_3': found int64"),
        (lambda f: changed(f, "episode_3", f["episode_3"] * np.nan), "'episode_3': found NaN or infinity in step 0"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_anything_is_written(data, features, tmp_path, change, message):
    file = write(tmp_path / "slots.npz", change(features))
    with pytest.raises(ValueError, match=message):
        store_features(file, data, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_neither_another_file_continues_a_store_nor_is_a_complete_one_kept(data, features, tmp_path, monkeypatch):
    append = EpisodeWriter.append

    def stop(writer, episode):
        if append(writer, episode) == 2:
            raise KeyboardInterrupt

    file = write(tmp_path / "slots.npz", features)
    monkeypatch.setattr(EpisodeWriter, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        store_features(file, data, tmp_path / "store")
    monkeypatch.undo()
    write(file, {name: values + 1 for name, values in features.items()})
    with pytest.raises(ValueError, match="store: the store has settings"):
        store_features(file, data, tmp_path / "store")
    write(file, features)
    store = open_source(store_features(file, data, tmp_path / "store"))
    np.testing.assert_array_equal(store.read("features", np.arange(40)), features["episode_0"])
    with pytest.raises(FileExistsError, match="store: a complete store is there already"):
        store_features(file, data, tmp_path / "store")


def test_other_files_are_refused_and_nothing_is_unpickled(data, features, tmp_path):
    with pytest.raises(ValueError, match=r"found the ending '.pkl', expected .npz, .h5 or .hdf5"):
        store_features(tmp_path / "slots.pkl", data, tmp_path / "store")
    file = write(tmp_path / "slots.npz", {**features, "episode_0": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store_features(file, data, tmp_path / "store")
