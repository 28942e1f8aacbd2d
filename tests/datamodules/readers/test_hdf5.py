"""The public HDF5 layout in its variants, and its damaged forms."""

import shutil

import h5py
import hdf5plugin
import numpy as np
import pytest

from jepakit.datamodules.readers import BadEpisode, open_source


@pytest.fixture
def copy(sample, tmp_path):
    path = tmp_path / "copy.h5"
    shutil.copy(sample, path)
    path.chmod(0o644)
    return path


def test_rows_are_those_of_the_file_with_the_nan_that_ends_an_episode(sample):
    source = open_source(sample)
    with h5py.File(sample) as file:
        for rows in (np.array([50, 2, 2, 97, 29]), np.array([5, 3, 4, 4, 6]), np.arange(30, 50)):
            for column in ("pixels", "action", "state", "proprio", "step_idx"):
                np.testing.assert_array_equal(source.read(column, rows), file[column][:][rows])
    assert np.isnan(source.read("action", source.offsets + source.lengths - 1)).all()


def test_frames_and_neighbours_are_read_as_slices_and_small_rows_far_apart_as_a_list(sample, monkeypatch):
    source, asked = open_source(sample), []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: asked.append(key) or original(self, key))
    for column, rows in (("pixels", [9, 50, 8, 8, 70]), ("action", [*range(40, 50), 3]), ("action", [60, 5, 90])):
        source.read(column, np.array(rows))
    *slices, rows = asked
    assert slices == [slice(8, 10), slice(50, 51), slice(70, 71), slice(3, 4), slice(40, 50)]
    assert rows.tolist() == [5, 60, 90]


@pytest.mark.parametrize("name", ["episode_idx", "ep_idx"])
def test_episodes_come_from_either_index_column_where_lengths_are_missing(copy, name):
    with h5py.File(copy, "r+") as file:
        del file["ep_len"], file["ep_offset"]
        file.move("episode_idx", "old")
        file[name] = file["old"][:]
        del file["old"]
    source = open_source(copy)
    assert source.lengths.tolist() == [30, 27, 41]
    assert source.offsets.tolist() == [0, 30, 57]
    assert not {"ep_idx", "episode_idx"} & set(source.columns)


@pytest.mark.parametrize("blosc", [hdf5plugin.Blosc(), hdf5plugin.Blosc2()], ids=["blosc", "blosc2"])
def test_blosc_columns_are_read(copy, sample, blosc):
    with h5py.File(copy, "r+") as file:
        pixels = file["pixels"][:]
        del file["pixels"]
        file.create_dataset("pixels", data=pixels, chunks=(1, 64, 64, 3), **blosc)
    rows = np.arange(98)
    np.testing.assert_array_equal(open_source(copy).read("pixels", rows), open_source(sample).read("pixels", rows))


def test_doubles_become_float32(copy):
    with h5py.File(copy, "r+") as file:
        state = file["state"][:].astype(np.float64)
        del file["state"]
        file["state"] = state
    source = open_source(copy)
    assert source.columns["state"].dtype == "float32"
    assert source.read("state", np.arange(3)).dtype == np.float32


def replaced(file, name, values):
    del file[name]
    file[name] = values


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.__delitem__("action"), r"columns \['action'\] not found; it has pixels, proprio, state"),
        (lambda f: f.__delitem__("pixels"), r"columns \['pixels'\] not found"),
        (
            lambda f: replaced(f, "pixels", np.zeros((98, 8, 8, 3), np.float32)),
            r"'pixels': found float32 .*expected uint8",
        ),
        (lambda f: replaced(f, "pixels", np.zeros((98, 3, 8, 8), np.uint8)), r"'pixels': found uint8 .*\(h, w, 3\)"),
        (lambda f: replaced(f, "action", np.zeros((98, 2), np.int32)), r"'action': found int32 .*expected floats"),
        (lambda f: replaced(f, "action", np.full((98, 2), b"left")), r"'action': found \|S4, expected numbers"),
        (lambda f: replaced(f, "state", np.zeros((50, 7), np.float32)), r"describe 98 rows, column 'state' has 50"),
        (lambda f: replaced(f, "ep_offset", np.array([0, 30])), "3 lengths in ep_len, 2 in ep_offset"),
        (lambda f: [f.__delitem__("ep_len"), f.__delitem__("episode_idx")], "'ep_len' and 'episode_idx' not found"),
        (lambda f: replaced(f, "ep_len", np.array([30, 0, 41])), r"episode 1: has no steps; .*--skip-bad"),
    ],
)
def test_wrong_columns_are_named(copy, change, said):
    with h5py.File(copy, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=rf"copy\.h5: .*{said}"):
        open_source(copy)


def test_rows_of_an_episode_that_are_apart_are_refused(copy):
    with h5py.File(copy, "r+") as file:
        del file["ep_len"], file["ep_offset"]
        file["episode_idx"][60:70] = 0
    with pytest.raises(ValueError, match="rows of episode 0 are not contiguous"):
        open_source(copy)


def test_a_broken_chunk_names_the_episode(copy):
    with h5py.File(copy, "r+") as file:
        pixels = file["pixels"][:]
        del file["pixels"]
        data = file.create_dataset("pixels", data=pixels, chunks=(1, 64, 64, 3), compression="gzip")
        place = data.id.get_chunk_info_by_coord((35, 0, 0, 0)).byte_offset
    content = bytearray(copy.read_bytes())
    content[place : place + 20] = b"\xff" * 20
    copy.write_bytes(content)
    source = open_source(copy)
    assert source.read("pixels", np.array([34, 36])).any()
    with pytest.raises(BadEpisode, match=r"copy\.h5: episode 1: row 35 of column 'pixels' cannot be read"):
        source.read("pixels", np.array([34, 35, 36]))


def test_truncated_files_are_named(copy):
    copy.write_bytes(copy.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"copy\.h5: not a readable HDF5 file .*truncated"):
        open_source(copy)
