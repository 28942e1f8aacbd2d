"""URLs: the same data through fsspec, and only the bytes that a window needs."""

import pickle

import fsspec
import h5py
import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from jepakit.datamodules.readers import open_source


class CountedFile(AbstractBufferedFile):
    """A remote file that counts what is fetched."""

    def _fetch_range(self, start, end):
        with open(self.path, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        CountedFileSystem.fetched += len(data)
        return data


class CountedFileSystem(AbstractFileSystem):
    """This machine's files as if they were far away."""

    protocol = "counted"
    fetched = 0

    def info(self, path, **_):
        local = fsspec.filesystem("file").info(self._strip_protocol(path))
        return {key: local[key] for key in ("name", "size", "type")}

    def ls(self, path, detail=True, **_):
        entries = [self.info(entry) for entry in fsspec.filesystem("file").ls(self._strip_protocol(path), detail=False)]
        return entries if detail else [entry["name"] for entry in entries]

    def _open(self, path, mode="rb", block_size=None, cache_type="none", cache_options=None, **_):
        return CountedFile(self, path, mode, block_size=block_size, cache_type=cache_type, cache_options=cache_options)


@pytest.fixture
def fetched():
    fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
    CountedFileSystem.fetched = 0
    return lambda: CountedFileSystem.fetched


@pytest.fixture
def memory(tmp_path):
    """``memory(path)`` copies a file or folder into fsspec's memory and returns its URL."""
    store = fsspec.filesystem("memory")

    def upload(path):
        store.put(str(path), f"/{path.name}", recursive=True)
        return f"memory://{path.name}"

    yield upload
    store.rm("/", recursive=True)


def assert_same(remote, local):
    np.testing.assert_array_equal(remote.lengths, local.lengths)
    rows = np.random.default_rng(0).integers(0, local.lengths.sum(), 25)
    assert set(remote.columns) == set(local.columns)
    for column in local.columns:
        np.testing.assert_array_equal(remote.read(column, rows), local.read(column, rows))


def test_every_format_is_the_same_from_a_url(sample, dinowm, lerobot, memory):
    for path in (sample, dinowm[0], lerobot[0]):
        url = memory(path)
        source = open_source(url)
        assert source.path == url
        assert_same(source, open_source(path))
        assert_same(pickle.loads(pickle.dumps(source)), open_source(path))


def test_file_urls_are_local_paths(sample, sample_lance):
    for path in (sample, sample_lance):
        source = open_source(path.as_uri())
        assert source.path == path
        assert_same(source, open_source(path))


def test_a_window_of_a_large_hdf5_file_fetches_a_small_part(tmp_path, fetched):
    path = tmp_path / "large.h5"
    frames = np.random.default_rng(0).integers(0, 256, (600, 128, 128, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("pixels", data=frames, chunks=(1, 128, 128, 3))
        file["action"], file["ep_len"], file["ep_offset"] = np.zeros((600, 2), np.float32), [300, 300], [0, 300]
    source = open_source(f"counted://{path}")
    rows = 400 + 5 * np.arange(4)
    np.testing.assert_array_equal(source.read("pixels", rows), frames[rows])
    source.read("action", 400 + np.arange(20))
    assert 0 < fetched() < 0.1 * path.stat().st_size


def test_a_window_of_a_long_video_fetches_a_small_part(lerobot, film, marks, fetched):
    folder = lerobot[0]
    film(folder / "videos/observation.images.top/chunk-000/file-000.mp4", [0, 1, 2] * 10, noise=20, crf="0", gop=10)
    video = folder / "videos/observation.images.top/chunk-000/file-000.mp4"
    source = open_source(f"counted://{folder}")
    before = fetched()
    rows = 60 + 5 * np.arange(4)
    assert marks(source.read("pixels", rows)) == [(2, 8), (2, 13), (2, 18), (2, 23)]
    assert 0 < fetched() - before < 0.2 * video.stat().st_size


def test_truncated_remote_files_are_named(sample, tmp_path, memory):
    path = tmp_path / "cut.h5"
    path.write_bytes(sample.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"memory://cut\.h5: not a readable HDF5 file"):
        open_source(memory(path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nowhere.h5", "memory://nowhere.h5: no such data set"),
        ("gopher://host/file.h5", "gopher://host/file.h5: Protocol not known: gopher"),
        ("memory://table.lance", "table.lance"),
    ],
)
def test_urls_that_lead_nowhere_are_named(url, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        open_source(url)


def test_stores_must_be_local(tiny_store, memory):
    with pytest.raises(ValueError, match="memory-mapped, so they must be local"):
        open_source(memory(tiny_store))


def test_a_fingerprint_is_that_of_the_local_data(sample, dinowm, lerobot, memory):
    for path in (sample, dinowm[0], lerobot[0]):
        assert open_source(memory(path)).fingerprint == open_source(path).fingerprint
