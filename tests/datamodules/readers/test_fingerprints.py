"""Foreign data sets of one shape are told apart by their content, and known again at any other place."""

import shutil

import h5py
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from samples import LENGTHS, marked_frame, write_dinowm, write_lerobot, write_video

from jepakit.datamodules.readers import open_source


@pytest.fixture(scope="session")
def originals(tmp_path_factory, sample, sample_lance):
    folder = tmp_path_factory.mktemp("originals")
    shutil.copy(sample, folder / "set.h5")
    shutil.copytree(sample_lance, folder / "set.lance")
    write_dinowm(folder / "dinowm")
    write_lerobot(folder / "lerobot")
    return folder


def other_hdf5(path, column):
    with h5py.File(path, "r+") as file:
        file[column][...] = 1 - file[column][...]


def other_lance(path, column):
    table = lance.dataset(str(path)).to_table()
    values = np.stack(table[column].to_numpy()) + 1
    changed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), table.schema.field(column).type.value_type), 2)
    shutil.rmtree(path)
    lance.write_dataset(table.set_column(table.schema.get_field_index(column), column, changed), path)


def other_tensor(path, column):
    torch.save(torch.load(path / column) + 1, path / column)


def other_parquet(path, column):
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    changed = pa.array(
        [[number + 1 for number in row] for row in table[column].to_pylist()], table.schema.field(column).type
    )
    lengths = LENGTHS[:2]
    with pq.ParquetWriter(file, table.schema) as writer:
        changed = table.set_column(table.schema.get_field_index(column), column, changed)
        for begin, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
            writer.write_table(changed.slice(begin, length))


def other_video(path, column):
    episodes = range(3) if path.name == "lerobot" else (1,)
    frames = [255 - marked_frame(episode, step) for episode in episodes for step in range(LENGTHS[episode])]
    (path / column).unlink()
    write_video(path / column, frames)


@pytest.mark.parametrize(
    ("name", "change", "column"),
    [
        ("set.h5", other_hdf5, "action"),
        ("set.h5", other_hdf5, "state"),
        ("set.h5", other_hdf5, "pixels"),
        ("set.lance", other_lance, "action"),
        ("dinowm", other_tensor, "rel_actions.pth"),
        ("dinowm", other_tensor, "states.pth"),
        ("dinowm", other_video, "obses/episode_001.mp4"),
        ("lerobot", other_parquet, "action"),
        ("lerobot", other_video, "videos/observation.images.top/chunk-000/file-000.mp4"),
    ],
)
def test_other_content_of_one_shape_has_another_fingerprint(originals, tmp_path, name, change, column):
    copy = shutil.copytree if (originals / name).is_dir() else shutil.copy
    again, other = tmp_path / f"again-{name}", tmp_path / name
    for path in (again, other):
        copy(originals / name, path)
    change(other, column)
    first, same, different = (open_source(path) for path in (originals / name, again, other))
    np.testing.assert_array_equal(different.lengths, first.lengths)
    assert different.columns == first.columns
    assert same.fingerprint == first.fingerprint != different.fingerprint


def test_what_cannot_be_read_counts_as_such(originals, tmp_path):
    shutil.copytree(originals / "dinowm", tmp_path / "dinowm")
    (tmp_path / "dinowm/obses/episode_001.mp4").unlink()
    damaged = open_source(tmp_path / "dinowm").fingerprint
    assert damaged == open_source(tmp_path / "dinowm").fingerprint != open_source(originals / "dinowm").fingerprint
