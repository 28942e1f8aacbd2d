"""Conversion: everything arrives, bad episodes are named or left out, failures leave whole episodes."""

import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from jepakit.datamodules.convert import Conversion, convert, fit_frames
from jepakit.datamodules.readers import BadEpisode, open_source
from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter

SAMPLE = Path(__file__).parent.parent / "fixtures" / "datasets" / "pusht_sample.h5"
COLUMNS = ("pixels", "action", "state", "proprio", "step_idx")


@pytest.fixture
def damaged(tmp_path):
    """The sample with a NaN action inside episode 1."""
    path = tmp_path / "damaged.h5"
    shutil.copy(SAMPLE, path)
    path.chmod(0o644)
    with h5py.File(path, "r+") as file:
        file["action"][35, 1] = np.nan
    return path


def rows_of(source, column, episodes=None):
    chosen = range(len(source.lengths)) if episodes is None else episodes
    return source.read(column, np.concatenate([source.offsets[e] + np.arange(source.lengths[e]) for e in chosen]))


@pytest.mark.parametrize("frames", ["raw", "png", "jpeg"])
def test_everything_arrives(tmp_path, frames):
    source, reports = open_source(SAMPLE), []
    result = convert(source, tmp_path / "s", Conversion(frames=frames), progress=lambda *done: reports.append(done))
    store = open_source(tmp_path / "s")
    assert (result.episodes, result.skipped, reports) == (3, (), [(1, 3), (2, 3), (3, 3)])
    assert store.columns["pixels"].codec == frames
    np.testing.assert_array_equal(store.lengths, source.lengths)
    for column in COLUMNS[1:] if frames == "jpeg" else COLUMNS:
        np.testing.assert_array_equal(rows_of(store, column), rows_of(source, column))
    assert np.abs(rows_of(store, "pixels").astype(int) - rows_of(source, "pixels")).mean() < 1
    with pytest.raises(FileExistsError, match="a complete store is there already"):
        convert(source, tmp_path / "s", Conversion(frames=frames))


def test_frames_are_cropped_to_the_centre_and_scaled_smoothly(tmp_path):
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, :20] = 255  # outside the centre square
    frames[:, :20, 20:60] = 200
    small = fit_frames(frames, 10)
    assert small.shape == (2, 10, 10, 3)
    assert small[:, :4].min() == 200
    assert small[:, 6:].max() == 0
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::3] = 210
    assert np.ptp(fit_frames(stripes, 16)[:, :, 2:-2].astype(int)) < 60  # the nearest pixel would be 0 or 210
    convert(open_source(SAMPLE), tmp_path / "s", Conversion(image_size=24))
    assert open_source(tmp_path / "s").columns["pixels"].shape == (24, 24, 3)


def test_a_bad_episode_is_named_then_left_out_by_the_same_conversion(damaged, tmp_path):
    source = open_source(damaged)
    with pytest.raises(
        BadEpisode, match=r"damaged\.h5: episode 1: column 'action': found \[.*nan\] in step 5, expected"
    ):
        convert(source, tmp_path / "s", Conversion())
    with pytest.raises(ValueError, match=r"not complete \(it has 1 episodes so far\)"):
        open_source(tmp_path / "s")
    result = convert(source, tmp_path / "s", Conversion(skip_bad=True))
    assert (result.episodes, [error.episode for error in result.skipped]) == (2, [1])
    store = open_source(tmp_path / "s")
    for column in COLUMNS:
        np.testing.assert_array_equal(rows_of(store, column), rows_of(source, column, [0, 2]))


def test_episodes_without_steps_are_left_out(damaged, tmp_path):
    with h5py.File(damaged, "r+") as file:
        file["ep_len"][...] = [30, 27, 0]
    source = open_source(damaged, check=False)
    result = convert(source, tmp_path / "s", Conversion(skip_bad=True))
    assert [error.problem.split(":")[0] for error in result.skipped] == ["column 'action'", "has no steps"]
    source.lengths[:] = 0
    with pytest.raises(ValueError, match="none of 3 episodes can be used"):
        convert(source, tmp_path / "none", Conversion(skip_bad=True))


def test_a_full_disk_names_the_episode_and_is_continued(tmp_path):
    source = open_source(SAMPLE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, before[1]))  # a file holds two episodes
    try:
        with pytest.raises(OSError, match=r"s/shard-00000: column 'pixels' of episode 2 cannot be written \(File too"):
            convert(source, tmp_path / "s", Conversion())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = EpisodeStore(tmp_path / "s")
    assert not kept.complete
    assert kept.verify() == []
    np.testing.assert_array_equal(rows_of(kept, "pixels"), rows_of(source, "pixels", [0, 1]))
    assert convert(source, tmp_path / "s", Conversion()).episodes == 3
    for column in COLUMNS:
        np.testing.assert_array_equal(rows_of(open_source(tmp_path / "s"), column), rows_of(source, column))


def test_an_interrupted_conversion_continues_past_what_was_skipped(damaged, tmp_path):
    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with h5py.File(damaged, "r+") as file:
        file["ep_len"][...], file["ep_offset"][...] = [27, 30, 41], [30, 0, 57]  # the bad episode comes first
    source = open_source(damaged)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "s", Conversion(skip_bad=True), progress=interrupt)
    assert not EpisodeStore(tmp_path / "s").complete
    result = convert(source, tmp_path / "s", Conversion(skip_bad=True))
    assert (result.episodes, [error.episode for error in result.skipped]) == (2, [0])
    np.testing.assert_array_equal(rows_of(open_source(tmp_path / "s"), "state"), rows_of(source, "state", [1, 2]))


def test_what_can_be_read_again_does_not_shift_what_is_continued(damaged, tmp_path):
    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with h5py.File(damaged, "r+") as file:
        del file["ep_len"], file["ep_offset"]
        file["ep_len"], file["ep_offset"] = [30, 27, 20, 21], [0, 30, 57, 77]
    source, read = open_source(damaged), []
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "s", Conversion(skip_bad=True), progress=interrupt)
    original = source.read

    def repaired(column, rows, out=None):
        read.extend(rows)
        return np.nan_to_num(original(column, rows, out))

    source.read = repaired
    result = convert(source, tmp_path / "s", Conversion(skip_bad=True))
    assert min(read) == 77  # nothing before the last episode
    [left_out] = result.skipped
    assert (result.episodes, left_out.episode) == (3, 1)
    assert "episode 1: column 'action': found [" in str(left_out)
    np.testing.assert_array_equal(rows_of(open_source(tmp_path / "s"), "state"), rows_of(source, "state", [0, 2, 3]))


def write_scenes(path, **options):
    """A store of one episode whose right half is white, of value 7 in its mask, and of (7, 0) in its two layers."""
    shapes = {"pixels": (20, 32, 3), "mask": (20, 32), "layers": (20, 32, 2), "codes": (4, 4)}
    columns = {name: Column(dtype="uint8", shape=shape) for name, shape in shapes.items()}
    episode = {name: np.zeros((3, *shape), np.uint8) for name, shape in shapes.items()}
    episode["pixels"][:, :, 16:], episode["mask"][:, :, 16:], episode["layers"][:, :, 16:, 0] = 255, 7, 7
    with EpisodeWriter(path, columns, **options) as writer:
        writer.append(episode)
    return EpisodeStore(path)


@pytest.mark.parametrize(("frames", "stored"), [("raw", "raw"), ("jpeg", "png")])
def test_masks_are_fitted_as_the_frames_are_and_keep_their_values(tmp_path, frames, stored):
    convert(write_scenes(tmp_path / "a"), tmp_path / "b", Conversion(frames=frames, image_size=10))
    small = EpisodeStore(tmp_path / "b")
    shapes = {name: (column.shape, column.codec) for name, column in small.columns.items()}
    assert shapes.pop("pixels") == ((10, 10, 3), frames)
    assert shapes == {"mask": ((10, 10), stored), "layers": ((10, 10, 2), "raw"), "codes": ((4, 4), "raw")}
    mask, layers = small.read("mask", np.arange(3)), small.read("layers", np.arange(3))
    np.testing.assert_array_equal(mask[:, :, :5], 0)
    np.testing.assert_array_equal(mask[:, :, 5:], 7)
    np.testing.assert_array_equal(layers, np.stack([mask, np.zeros_like(mask)], axis=-1))


def test_the_rate_of_a_store_is_kept(tmp_path):
    convert(write_scenes(tmp_path / "a", settings={"fps": 12.5}), tmp_path / "b", Conversion())
    assert EpisodeStore(tmp_path / "b").fps == 12.5


def test_stores_that_are_not_finished_or_empty_are_refused(tmp_path):
    columns = {"pixels": Column(dtype="uint8", shape=(8, 8, 3))}
    writer = EpisodeWriter(tmp_path / "s", columns)
    with pytest.raises(ValueError, match=r"s: the store is not complete \(it has 0 episodes so far\); run what was"):
        convert(EpisodeStore(tmp_path / "s"), tmp_path / "d", Conversion())
    writer.close()
    with pytest.raises(ValueError, match=r"s: none of 0 episodes can be used$"):
        convert(EpisodeStore(tmp_path / "s"), tmp_path / "d", Conversion())


def test_another_source_is_not_mixed_in(damaged, tmp_path):
    with pytest.raises(BadEpisode):
        convert(open_source(damaged), tmp_path / "s", Conversion())
    with pytest.raises(ValueError, match="the store has settings"):
        convert(open_source(SAMPLE), tmp_path / "s", Conversion())
    with pytest.raises(ValueError, match="image_size: found 0"):
        Conversion(image_size=0)
