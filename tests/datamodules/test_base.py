"""Windows, splits and statistics: the same from every source."""

import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from jepakit.datamodules import Collisions, EpisodeDataModule, Generate, TwoRoom
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.splits import split_episodes
from jepakit.datamodules.store import Column, EpisodeWriter
from jepakit.datamodules.windows import WindowDataset, WindowSpec

SAMPLE = Path(__file__).parent.parent / "fixtures" / "datasets" / "pusht_sample.h5"
SPEC = WindowSpec(history=3, predictions=1, frame_skip=5)


@pytest.fixture
def data(tiny_store):
    module = EpisodeDataModule(str(tiny_store), image_size=32, batch_size=16)
    module.setup()
    return module


def test_a_window_holds_the_rows_it_says(data):
    dataset = data.dataset("train")
    source = data.source
    for index in np.random.default_rng(0).integers(0, len(dataset), 20):
        window = dataset[int(index)]
        first = source.offsets[window["episode"]] + int(window["start"])
        rows = first + np.arange(20)
        np.testing.assert_array_equal(window["pixels"], source.read("pixels", rows[::5]))
        np.testing.assert_array_equal(window["state"], source.read("state", rows[::5]))
        actions = source.read("action", rows)
        expected = np.where(np.isnan(actions), data.statistics.action_mean[:2], actions).reshape(4, 10)
        np.testing.assert_array_equal(window["action"], expected)


def test_all_windows_of_all_training_episodes_and_no_others(data):
    dataset = data.dataset("train")
    seen = {(int(w["episode"]), int(w["start"])) for w in (dataset[i] for i in range(len(dataset)))}
    assert seen == {(int(e), s) for e in data.parts["train"] for s in range(40 - 20 + 1)}
    starts = {int(w["start"]) for w in (data.dataset("val")[i] for i in range(len(data.dataset("val"))))}
    assert starts == {0, 20}


def test_parts_are_disjoint_and_seeded():
    parts = split_episodes(50, val=0.1, test=0.2, seed=0)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(50))
    assert [len(parts[name]) for name in ("train", "val", "test")] == [35, 5, 10]
    assert split_episodes(50, val=0.1, test=0.2, seed=0)["test"].tolist() == parts["test"].tolist()
    assert split_episodes(50, val=0.1, test=0.2, seed=1)["test"].tolist() != parts["test"].tolist()
    with pytest.raises(ValueError, match="expected at least 3"):
        split_episodes(2, val=0.1, test=0.1, seed=0)
    with pytest.raises(ValueError, match=r"val=0\.5 and test=0\.4 of 4 episodes, which leave none to train"):
        split_episodes(4, val=0.5, test=0.4, seed=0)
    with pytest.raises(ValueError, match="shares"):
        split_episodes(50, val=0.6, test=0.4, seed=0)


def test_statistics_are_those_of_the_training_actions(data):
    rows = np.concatenate([data.source.offsets[e] + np.arange(40) for e in data.parts["train"]])
    actions = data.source.read("action", rows)
    actions = actions[~np.isnan(actions[:, 0])].astype(np.float64)
    np.testing.assert_allclose(data.statistics.action_mean, np.tile(actions.mean(0), 5), rtol=1e-5)
    np.testing.assert_allclose(data.statistics.action_std, np.tile(actions.std(0), 5), rtol=1e-5)
    np.testing.assert_allclose(data.statistics.action_low, actions.min(0))


def test_batches_are_uint8_and_repeat_with_the_epoch(data):
    def order(epoch):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch["start"].tolist() for batch in loader]

    batch = next(iter(data.train_dataloader()))
    assert str(batch["pixels"].dtype) == "torch.uint8"
    assert batch["pixels"].shape == (16, 4, 32, 32, 3)
    assert batch["action"].shape == (16, 4, 10)
    assert order(0) == order(0)
    assert order(0) != order(1)


def test_worker_processes_see_the_same_data(data):
    alone = [batch["pixels"].numpy() for batch in data.val_dataloader()]
    data.num_workers = 2
    for expected, found in zip(alone, data.val_dataloader(), strict=True):
        np.testing.assert_array_equal(found["pixels"], expected)


def test_sources_survive_pickling(tiny_store):
    for source in (open_source(tiny_store), open_source(SAMPLE)):
        rows = np.array([3, 1, 40, 3])
        before = source.read("pixels", rows)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read("pixels", rows), before)


def test_the_public_hdf5_layout_is_read():
    source = open_source(SAMPLE)
    assert source.lengths.tolist() == [30, 27, 41]
    rows = np.array([50, 2, 2, 97])
    with h5py.File(SAMPLE) as file:
        for column in ("pixels", "action", "state", "proprio"):
            np.testing.assert_array_equal(source.read(column, rows), file[column][:][rows])
    module = EpisodeDataModule(str(SAMPLE), image_size=64, batch_size=4)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert np.isfinite(batch["action"].numpy()).all()


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "copy.h5"
    shutil.copy(SAMPLE, path)
    path.chmod(0o644)
    return path


def test_nan_actions_inside_an_episode_name_the_episode(damaged):
    with h5py.File(damaged, "r+") as file:
        file["action"][35, 1] = np.nan

    def read_everything(seed):
        module = EpisodeDataModule(str(damaged), image_size=64, seed=seed)
        module.setup()
        for part in ("train", "val", "test"):
            dataset = module.dataset(part)
            dataset.__getitems__(list(range(len(dataset))))

    for seed in range(6):  # whichever part the episode falls into
        with pytest.raises(ValueError, match=r"copy\.h5: column 'action' of episode 1"):
            read_everything(seed)


def test_truncated_and_foreign_files_are_named(damaged, tmp_path):
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"copy\.h5: not a readable HDF5 file"):
        open_source(damaged)
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        open_source(tmp_path / "nothing-here.h5")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt: unknown kind of data set"):
        open_source(tmp_path / "notes.txt")


def test_missing_columns_are_named(damaged):
    with h5py.File(damaged, "r+") as file:
        del file["action"]
    with pytest.raises(ValueError, match="'action'"):
        open_source(damaged)


def test_constant_actions_are_refused(damaged):
    with h5py.File(damaged, "r+") as file:
        file["action"][:, 1] = 0.5
    with pytest.raises(ValueError, match=r"dimensions \[1\] are constant"):
        EpisodeDataModule(str(damaged), image_size=64).setup()


def test_frames_of_another_size_are_refused(tiny_store):
    with pytest.raises(ValueError, match=r"found frames of \(32, 32, 3\), expected \(64, 64, 3\)"):
        EpisodeDataModule(str(tiny_store), image_size=64).setup()


def test_episodes_shorter_than_a_window_are_named(data):
    with pytest.raises(ValueError, match="a window needs 60"):
        WindowDataset(
            data.source,
            data.parts["train"],
            WindowSpec(history=11, predictions=1, frame_skip=5),
            last_action=np.zeros(2, np.float32),
        )


def test_too_few_windows_for_a_batch_are_named(tiny_store):
    module = EpisodeDataModule(str(tiny_store), image_size=32, batch_size=5000)
    module.setup()
    with pytest.raises(ValueError, match="do not fill one batch of 5000"):
        module.train_dataloader()


def test_a_data_set_must_be_given_where_none_can_be_made():
    with pytest.raises(ValueError, match="expected the path of a data set"):
        EpisodeDataModule(None)


def test_tworoom_makes_its_own_data_once(tmp_path):
    module = TwoRoom(generate=Generate(root=str(tmp_path), episodes=12, steps=30, workers=1), image_size=32)
    module.prepare_data()
    manifest = module.locate() / "manifest.json"
    written = manifest.stat().st_mtime_ns
    module.prepare_data()
    assert manifest.stat().st_mtime_ns == written
    module.setup()
    np.testing.assert_array_equal(module.statistics.action_low, [-1.0, -1.0])
    assert module.spec.action_dim == 2
    assert module.state_names == ("agent_x", "agent_y")


def test_missing_cameras_are_named(tiny_store):
    with pytest.raises(ValueError, match="column 'pixels_wrist' not found; it has pixels, action"):
        EpisodeDataModule(str(tiny_store), image_size=32, columns=("pixels_wrist",)).setup()


def test_features_given_as_data_are_refused(tmp_path):
    with EpisodeWriter(tmp_path / "s", {"features": Column(dtype="float32", shape=(2, 3))}) as writer:
        writer.append({"features": np.zeros((9, 2, 3), np.float32)})
    with pytest.raises(ValueError, match="s: column 'pixels' not found; it has features"):
        EpisodeDataModule(str(tmp_path / "s")).setup()


def test_proprioception_that_is_not_finite_names_the_episode(damaged):
    with h5py.File(damaged, "r+") as file:
        file["proprio"][[20, 50, 90], 0] = np.nan  # in every episode
    module = EpisodeDataModule(str(damaged), image_size=64)
    [train] = module.split_count(3)["train"]
    with pytest.raises(
        ValueError, match=rf"copy\.h5: column 'proprio' of episode {train}: found \[nan, .*expected fin"
    ):
        module.setup()


def test_proprioception_is_standardised_by_the_training_episodes(data):
    rows = np.concatenate([data.source.offsets[e] + np.arange(40) for e in data.parts["train"]])
    values = data.source.read("proprio", rows).astype(np.float64)
    np.testing.assert_allclose(data.statistics.proprio_mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(data.statistics.proprio_std, values.std(axis=0), rtol=1e-6)


def test_masks_and_other_columns_come_as_they_are_stored(tmp_path):
    data = Collisions(
        generate=Generate(root=str(tmp_path), episodes=12, steps=30, workers=1),
        image_size=32,
        columns=("mask",),
        batch_size=4,
    )
    data.prepare_data()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    first = data.source.offsets[batch["episode"][0]] + int(batch["start"][0])
    assert batch["mask"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["mask"][0], data.source.read("mask", first + 5 * np.arange(4)))
    assert len(np.unique(batch["mask"])) > 3
