"""Writing stores: whole episodes or nothing, whatever happens."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.datamodules.store import MANIFEST, Column, EpisodeStore, EpisodeWriter, write_manifest, write_shard
from jepakit.datamodules.store import writer as store_writer
from jepakit.datamodules.store.manifest import Manifest

COLUMNS = {"pixels": Column(dtype="uint8", shape=(16, 16, 3)), "action": Column(dtype="float32", shape=(2,))}


def episode(number, steps=10):
    rng = np.random.default_rng(number)
    return {
        "pixels": rng.integers(0, 255, (steps, 16, 16, 3), dtype=np.uint8),
        "action": rng.standard_normal((steps, 2)).astype(np.float32),
    }


def assert_holds(store, numbers, steps=10):
    assert store.lengths.tolist() == [steps] * len(numbers)
    for place, number in enumerate(numbers):
        rows = place * steps + np.arange(steps)
        for name, expected in episode(number, steps).items():
            np.testing.assert_array_equal(store.read(name, rows), expected)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    shard_bytes=st.sampled_from([1, 2000, 10**9]),
    codec=st.sampled_from(["raw", "png"]),
    session=st.integers(1, 8),
)
def test_what_is_appended_comes_back_in_any_order(tmp_path_factory, lengths, shard_bytes, codec, session):
    path = tmp_path_factory.mktemp("store") / "s"
    columns = {**COLUMNS, "pixels": Column(dtype="uint8", shape=(16, 16, 3), codec=codec)}
    episodes = [episode(number, steps) for number, steps in enumerate(lengths)]
    for first in range(0, len(episodes), session):  # several sessions append to one store
        with EpisodeWriter(path, columns, shard_bytes=shard_bytes) as writer:
            for number, content in enumerate(episodes[first : first + session], start=first):
                assert writer.append(content) == number
    store = EpisodeStore(path)
    assert store.complete
    assert store.lengths.tolist() == lengths
    rows = np.random.default_rng(0).integers(0, sum(lengths), 40)
    for name in columns:
        expected = np.concatenate([content[name] for content in episodes])
        np.testing.assert_array_equal(store.read(name, rows), expected[rows])
    assert store.verify() == []


def test_files_are_plain_npy(tmp_path):
    with EpisodeWriter(tmp_path / "s", COLUMNS) as writer:
        writer.append(episode(0))
        writer.append(episode(1))
    for name in COLUMNS:
        rows = np.load(tmp_path / "s" / "shard-00000" / f"{name}.npy")
        np.testing.assert_array_equal(rows, np.concatenate([episode(0)[name], episode(1)[name]]))


def test_a_kill_at_any_file_operation_leaves_the_committed_episodes(tmp_path):
    program = Path(__file__).with_name("store_killer.py")
    result = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = [int(word) for word in result.stdout.split()]
    assert len(found) > 30
    assert found == sorted(found)
    assert set(found) == {0, 1, 2, 3}


def write(path, numbers, *, committed=0, then=None):
    """Append episodes, the first of them committed, and call ``then`` before the writer is closed."""
    with EpisodeWriter(path, COLUMNS) as writer:
        for place, number in enumerate(numbers, start=1):
            writer.append(episode(number))
            if place <= committed:
                writer.commit()
        if then is not None:
            then()


def raising(error):
    def function(*_):
        raise error

    return function


@contextmanager
def limited_files():
    """Files of at most three episodes and a bit. Not for longer than a test's own writing: pytest's log is one, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 10 * 16 * 16 * 3 + 1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_named_and_leaves_the_episodes_before(tmp_path):
    too_large = r"s/shard-00001: column 'pixels' of episode 4 cannot be written \(File too"
    with limited_files(), pytest.raises(OSError, match=too_large):
        write(tmp_path / "s", range(9), committed=1)
    store = EpisodeStore(tmp_path / "s")
    assert store.complete is False
    assert_holds(store, [0, 1, 2, 3])
    write(tmp_path / "s", [4])
    assert_holds(EpisodeStore(tmp_path / "s"), [0, 1, 2, 3, 4])


def test_a_disk_too_full_even_to_commit_keeps_what_was_committed(tmp_path, monkeypatch):
    def crash():
        monkeypatch.setattr(np, "save", raising(OSError(28, "No space left on device")))
        raise RuntimeError("the first error")

    with pytest.raises(RuntimeError, match="the first error"):
        write(tmp_path / "s", [0, 1], committed=1, then=crash)
    assert_holds(EpisodeStore(tmp_path / "s"), [0])


def test_an_exception_keeps_whole_episodes_and_says_unfinished(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s", [0], then=raising(KeyboardInterrupt()))
    store = EpisodeStore(tmp_path / "s")
    assert store.complete is False
    assert_holds(store, [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((10, 8, 8, 3), np.uint8)}, r"episode 1: column 'pixels': found uint8 rows of \(8, 8, 3\)"),
        ({"action": np.zeros((10, 2))}, "episode 1: column 'action': found float64 rows"),
        ({"action": np.zeros((9, 2), np.float32)}, "episode 1: found .*'action': 9.* the same number"),
        ({"pixels": np.zeros((0, 16, 16, 3), np.uint8), "action": np.zeros((0, 2), np.float32)}, "at least 1"),
        ({"reward": np.zeros(10)}, r"found columns \['action', 'pixels', 'reward'\], expected \['action', 'pixels'\]"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_and_named(tmp_path, change, message):
    with EpisodeWriter(tmp_path / "s", COLUMNS) as writer:
        writer.append(episode(0))
        with pytest.raises(ValueError, match=message):
            writer.append({**episode(1), **change})
        writer.append(episode(2))
    assert_holds(EpisodeStore(tmp_path / "s"), [0, 2])


def test_other_columns_settings_and_foreign_folders_are_refused(tmp_path):
    with EpisodeWriter(tmp_path / "s", COLUMNS, settings={"task": "push"}) as writer:
        writer.append(episode(0))
    with pytest.raises(ValueError, match=r"the store has settings \{'task': 'push'\}, found \{'task': 'pull'\}"):
        EpisodeWriter(tmp_path / "s", COLUMNS, settings={"task": "pull"})
    with pytest.raises(ValueError, match="the store has columns"):
        EpisodeWriter(tmp_path / "s", {"action": COLUMNS["action"]}, settings={"task": "push"})
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="exists and is no store"):
        EpisodeWriter(tmp_path, COLUMNS)
    assert_holds(EpisodeStore(tmp_path / "s"), [0])


def test_two_writers_do_not_meet(tmp_path):
    with EpisodeWriter(tmp_path / "s", COLUMNS), pytest.raises(ValueError, match="another process is writing"):
        EpisodeWriter(tmp_path / "s", COLUMNS)


def test_what_was_committed_before_the_lock_was_taken_is_kept(tmp_path, monkeypatch):
    lock = store_writer._lock

    def late(root):
        monkeypatch.setattr(store_writer, "_lock", lock)
        write(root, [1])  # by another process, after this one has looked at the store
        return lock(root)

    write(tmp_path / "s", [0])
    monkeypatch.setattr(store_writer, "_lock", late)
    write(tmp_path / "s", [2])
    assert_holds(EpisodeStore(tmp_path / "s"), [0, 1, 2])


def test_what_was_left_out_is_saved_with_a_commit(tmp_path):
    writer = EpisodeWriter(tmp_path / "s", COLUMNS)
    writer.skipped[3] = "has no steps"
    writer.append(episode(0))
    writer.commit()
    assert Manifest.load(tmp_path / "s").skipped == {3: "has no steps"}
    writer.close()
    assert EpisodeWriter(tmp_path / "s", COLUMNS).skipped == {3: "has no steps"}
    Manifest(settings={}, columns=COLUMNS, skipped={"x": ""}).save(tmp_path)
    with pytest.raises(ValueError, match=r"manifest\.json: skipped: found 'x', expected numbers of episodes"):
        Manifest.load(tmp_path)


def test_memory_holds_one_episode(tmp_path):
    """Peak memory of writing 40 episodes of 20 MB stays far below their sum."""
    program = f"""
import resource
import numpy as np
from jepakit.datamodules.store import Column, EpisodeWriter
with EpisodeWriter({str(tmp_path / "s")!r}, {{"x": Column(dtype="uint8", shape=(1000, 1000))}}) as writer:
    writer.append({{"x": np.ones((20, 1000, 1000), np.uint8)}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(39):
        writer.append({{"x": np.full((20, 1000, 1000), number, np.uint8)}})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 60_000  # KiB


def test_the_fingerprint_is_of_the_content_unless_given(tmp_path):
    def fingerprint(name, numbers, **options):
        with EpisodeWriter(tmp_path / name, COLUMNS, **options) as writer:
            for number in numbers:
                writer.append(episode(number))
        return EpisodeStore(tmp_path / name).fingerprint

    assert fingerprint("a", [0, 1]) == fingerprint("b", [0, 1]) != fingerprint("c", [0, 2])
    assert fingerprint("a", [2]) != fingerprint("b", [])
    assert fingerprint("d", [0], fingerprint="given") == "given"


def test_shards_written_apart_become_one_store(tmp_path):
    for shard in (1, 0):
        write_shard(tmp_path / f"shard-{shard:05d}", (episode(2 * shard + n) for n in range(2)), COLUMNS)
    write_manifest(tmp_path, {"seed": 0}, COLUMNS)
    assert_holds(EpisodeStore(tmp_path), [0, 1, 2, 3])
    assert EpisodeStore(tmp_path).verify() == []


def test_a_shard_whose_episodes_fail_leaves_nothing(tmp_path):
    def failing():
        yield episode(0)
        raise RuntimeError("simulator crashed")

    with pytest.raises(RuntimeError, match="simulator crashed"):
        write_shard(tmp_path / "shard-00000", failing(), COLUMNS)
    assert list(tmp_path.iterdir()) == []


def test_manifests_are_replaced_whole(tmp_path, monkeypatch):
    with EpisodeWriter(tmp_path / "s", COLUMNS) as writer:
        writer.append(episode(0))
    before = (tmp_path / "s" / MANIFEST).read_text()
    monkeypatch.setattr(os, "fsync", raising(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        EpisodeWriter(tmp_path / "s", COLUMNS)
    assert (tmp_path / "s" / MANIFEST).read_text() == before
    assert json.loads(before)["complete"] is True
    assert not list((tmp_path / "s").glob(".manifest*"))
    monkeypatch.undo()
    EpisodeWriter(tmp_path / "s", COLUMNS).close()  # what failed has let go of the store
