"""The public Lance layout: the same columns as the HDF5 file, and its damaged forms."""

import io
import shutil

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jepakit.datamodules.readers import BadEpisode, open_source


@pytest.fixture
def table(sample_lance):
    return lance.dataset(str(sample_lance)).to_table()


@pytest.fixture
def rewritten(table, tmp_path):
    """``rewritten(column, values)`` writes the sample with one column replaced; ``None`` leaves it out."""

    def write(name, values):
        path = tmp_path / "copy.lance"
        index = table.schema.get_field_index(name)
        changed = table.drop_columns([name]) if values is None else table.set_column(index, name, values)
        lance.write_dataset(changed, path)
        return path

    return write


def jpeg(height, width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="jpeg")
    return buffer.getvalue()


def test_columns_are_those_of_the_hdf5_file(sample, sample_lance):
    ours, theirs = open_source(sample_lance), open_source(sample)
    assert set(ours.columns) == set(theirs.columns)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    rows = np.random.default_rng(0).integers(0, 98, 150)
    for column in ("action", "state", "proprio", "step_idx"):
        np.testing.assert_array_equal(ours.read(column, rows), theirs.read(column, rows))
    difference = np.abs(ours.read("pixels", rows).astype(int) - theirs.read("pixels", rows))
    assert difference.mean() < 1  # JPEG
    assert (difference > 40).mean() < 1e-3


def test_images_of_mixed_sizes_name_the_episode(rewritten, table):
    images = table["pixels"].to_pylist()
    images[40] = jpeg(48, 64)
    source = open_source(rewritten("pixels", pa.array(images)))
    with pytest.raises(
        BadEpisode, match=r"copy\.lance: episode 1: column 'pixels', row 40: found an image of \(48, 64, 3\)"
    ):
        source.read("pixels", np.array([39, 40]))


@pytest.mark.parametrize("image", [b"", b"no image", jpeg(64, 64)[:200]])
def test_images_that_cannot_be_decoded_name_the_episode(rewritten, table, image):
    images = table["pixels"].to_pylist()
    images[90] = image
    source = open_source(rewritten("pixels", pa.array(images)))
    with pytest.raises(
        BadEpisode, match=r"copy\.lance: episode 2: column 'pixels', row 90: image of \d+ bytes cannot be"
    ):
        source.read("pixels", np.array([90, 3]))


def test_empty_cells_name_the_episode(rewritten, table):
    actions = table["action"].to_pylist()
    actions[31] = None
    source = open_source(rewritten("action", pa.array(actions, table.schema.field("action").type)))
    with pytest.raises(BadEpisode, match=r"episode 1: column 'action' is empty in row 31"):
        source.read("action", np.array([30, 31]))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("action", None, r"columns \['action'\] not found"),
        ("episode_idx", None, r"column 'episode_idx' not found"),
        ("action", pa.array(["left"] * 98), r"column 'action': found object, expected numbers"),
        ("action", pa.array(np.zeros(98, np.float32)), r"column 'action': found float32 rows of shape \(\)"),
        ("episode_idx", pa.array([0, 1] * 49), "rows of episode 0 are not contiguous"),
    ],
)
def test_wrong_columns_are_named(rewritten, name, values, said):
    with pytest.raises(ValueError, match=rf"copy\.lance: {said}"):
        open_source(rewritten(name, values))


def test_truncated_tables_are_named(sample_lance, tmp_path):
    copy = tmp_path / "copy.lance"
    shutil.copytree(sample_lance, copy)
    [data] = (copy / "data").iterdir()
    data.parent.chmod(0o755)
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[:-4000])
    with pytest.raises(ValueError, match=r"copy\.lance: cannot be read"):
        open_source(copy)
