"""Features from a second data set stand in for the frames."""

import numpy as np
import pytest

from jepakit.datamodules import EpisodeDataModule
from jepakit.datamodules.joined import JoinedSource
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.store import Column, EpisodeWriter


def write_features(path, lengths, name="features", **settings):
    """Row t of episode e is (e, t) for every token."""
    with EpisodeWriter(path, {name: Column(dtype="float16", shape=(3, 2))}, settings=settings) as writer:
        for episode, length in enumerate(lengths):
            rows = np.stack([np.full(length, episode), np.arange(length)], axis=1)
            writer.append({name: np.repeat(rows[:, None], 3, axis=1).astype(np.float16)})
    return str(path)


@pytest.fixture
def lengths(tiny_store):
    return open_source(tiny_store).lengths


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_bring_the_features_of_their_rows_and_no_frames(tiny_store, lengths, tmp_path, workers):
    features = write_features(tmp_path / "features", lengths)
    data = EpisodeDataModule(str(tiny_store), features=features, image_size=32, batch_size=16, num_workers=workers)
    data.setup()
    batch = {name: value.numpy() for name, value in next(iter(data.train_dataloader())).items()}
    assert set(batch) == {"features", "action", "proprio", "state", "episode", "start"}
    rows = batch["start"][:, None] + 5 * np.arange(4)
    expected = np.stack([np.broadcast_to(batch["episode"][:, None], rows.shape), rows], axis=-1)
    np.testing.assert_array_equal(batch["features"], np.repeat(expected[:, :, None], 3, axis=2))


def test_features_of_other_data_are_refused(tiny_store, lengths, tmp_path):
    features = write_features(tmp_path / "features", lengths[:-1])
    with pytest.raises(ValueError, match="found 29 episodes of 1160 steps, expected the 30 episodes of 1200 steps"):
        EpisodeDataModule(str(tiny_store), features=features, image_size=32).setup()


@pytest.mark.parametrize("key", ["data", "source_fingerprint"])  # of FeatureCache, of store_features
def test_features_of_other_data_of_the_same_lengths_are_refused(tiny_store, lengths, tmp_path, key):
    mine = open_source(tiny_store).fingerprint
    features = write_features(tmp_path / "mine", lengths, **{key: mine})
    EpisodeDataModule(str(tiny_store), features=features, image_size=32).setup()
    features = write_features(tmp_path / "others", lengths, **{key: "0123"})
    with pytest.raises(ValueError, match=f"others: found 'features' .* the fingerprint 0123, expected {mine}, that of"):
        EpisodeDataModule(str(tiny_store), features=features, image_size=32).setup()


def test_features_in_a_converted_data_set_join_another(tiny_store, lengths, tmp_path):
    columns = {"features": Column(dtype="float16", shape=(1,)), "pixels": Column(dtype="uint8", shape=(1, 1, 3))}
    with EpisodeWriter(tmp_path / "set", columns, settings={"source_fingerprint": "of its own source"}) as writer:
        for length in lengths:
            writer.append({"features": np.ones((length, 1), "f2"), "pixels": np.zeros((length, 1, 1, 3), "u1")})
    JoinedSource(open_source(tiny_store), open_source(tmp_path / "set"), "features")


def test_a_data_set_without_the_column_is_refused(tiny_store, lengths, tmp_path):
    features = write_features(tmp_path / "features", lengths, name="slots")
    with pytest.raises(ValueError, match="column 'features' not found; it has slots"):
        EpisodeDataModule(str(tiny_store), features=features, image_size=32).setup()


class Rows:
    """Episodes at any place of a file; every row holds its episode and step."""

    path, fingerprint, fork_safe = "memory", "0", True

    def __init__(self, name, lengths, offsets):
        self.columns = {name: Column(dtype="int64", shape=(2,))}
        self.lengths, self.offsets = np.array(lengths), np.array(offsets)
        self._rows = np.full((20, 2), -1)
        for episode, (length, offset) in enumerate(zip(lengths, offsets, strict=True)):
            self._rows[offset : offset + length] = np.column_stack([np.full(length, episode), np.arange(length)])

    def read(self, column, rows, out=None):
        assert column in self.columns
        return self._rows[rows]


@pytest.mark.parametrize("offsets", [[0, 3, 3, 5], [2, 9, 5, 5], [7, 1, 12, 12]], ids=["packed", "gaps", "other order"])
def test_rows_join_by_episode_and_step(offsets):
    lengths = [3, 0, 2, 4] if offsets[1] == 3 else [3, 2, 0, 4]
    base = Rows("pixels", lengths, offsets)
    joined = JoinedSource(base, Rows("features", lengths, np.cumsum(lengths) - lengths), "features")
    rows = np.concatenate([offset + np.arange(length) for offset, length in zip(offsets, lengths, strict=True)])
    assert np.array_equal(joined.read("features", rows[::-1]), joined.read("pixels", rows[::-1]))
