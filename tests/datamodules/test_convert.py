"""Conversion: everything arrives, bad episodes are named or left out, failures leave whole episodes."""

import resource
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from jepakit.datamodules.convert import Conversion, convert, fit_frames
from jepakit.datamodules.readers import BadEpisode, open_source
from jepakit.datamodules.store import EpisodeStore

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
    assert convert(source, tmp_path / "s", Conversion(skip_bad=True)).episodes == 2
    np.testing.assert_array_equal(rows_of(open_source(tmp_path / "s"), "state"), rows_of(source, "state", [1, 2]))


def test_another_source_is_not_mixed_in(damaged, tmp_path):
    with pytest.raises(BadEpisode):
        convert(open_source(damaged), tmp_path / "s", Conversion())
    with pytest.raises(ValueError, match="the store has settings"):
        convert(open_source(SAMPLE), tmp_path / "s", Conversion())
    with pytest.raises(ValueError, match="image_size: found 0"):
        Conversion(image_size=0)
