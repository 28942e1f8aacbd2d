"""Collection: the same bytes whoever makes them, atomic, resumable."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from jepakit.datamodules import collect as collect_module
from jepakit.datamodules.collect import Collection, Share, collect, collect_share, merge
from jepakit.datamodules.store import MANIFEST, EpisodeStore
from jepakit.envs.collisions import Collisions
from jepakit.envs.scene import pairs
from jepakit.envs.tworoom import TwoRoom
from jepakit.workers import each_result

SETTINGS = Collection(
    env="jepakit.envs.tworoom:TwoRoom",
    policy="jepakit.envs.tworoom:TwoRoomExplorer",
    episodes=90,  # four shards
    steps=12,
    image_size=16,
)
PROGRAM = """
import json, os, signal, sys
from jepakit.datamodules.collect import Collection, Share, collect, collect_share
from jepakit.datamodules.store import EpisodeStore

def report(done, total):
    if job["kill"]:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    settings, root = Collection(**job["settings"]), sys.argv[2]
    options = {"workers": job["workers"], "cluster": job["cluster"], "progress": report}
    if job["share"]:
        collect_share(settings, root, Share.parse(job["share"]), **options)
    else:
        assert EpisodeStore(collect(settings, root, **options)).complete
"""


def start(root, *, workers=1, share=None, cluster=None, kill=False):
    """Collect in another process."""
    job = {"settings": asdict(SETTINGS), "workers": workers, "share": share, "cluster": cluster, "kill": kill}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(job), root],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RAY_raylet_start_wait_time_s": "120"},  # for busy machines
    )


def end(process):
    """Wait for it and for all its workers, which hold its output too."""
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


def contents(path):
    """Every file of a data set."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What one process writes without interruption."""
    return contents(collect(SETTINGS, tmp_path_factory.mktemp("whole"), workers=1))


def everything(root):
    """The finished data set under ``root``; nothing but it and lock files may be there."""
    final = SETTINGS.directory(root)
    assert {path.name for path in root.iterdir()} == {final.name, f".{final.name}.lock"}
    return contents(final)


# -- the same bytes ---------------------------------------------------------------------------------------------------
def test_any_number_of_processes(expected, tmp_path):
    collect(SETTINGS, tmp_path, workers=2)
    assert everything(tmp_path) == expected
    assert len(EpisodeStore(SETTINGS.directory(tmp_path)).lengths) == 90


@pytest.mark.parametrize("count", [1, 3, 16])
def test_shares_in_any_order(expected, tmp_path, count):
    done = {}
    for number in reversed(range(1, count + 1)):
        folder = collect_share(
            SETTINGS,
            tmp_path,
            Share(number=number, count=count),
            workers=1,
            progress=lambda episodes, total, number=number: done.update({number: (episodes, total)}),
        )
        assert not SETTINGS.directory(tmp_path).exists()
        assert folder.is_dir()
    assert sum(total for _, total in done.values()) == 90
    assert all(episodes == total for episodes, total in done.values())
    assert merge(SETTINGS, tmp_path) == SETTINGS.directory(tmp_path)
    assert everything(tmp_path) == expected
    share = Share(number=1, count=count)
    assert collect_share(SETTINGS, tmp_path, share) == merge(SETTINGS, tmp_path) == SETTINGS.directory(tmp_path)


def test_shares_made_in_separate_folders(expected, tmp_path):
    roots = [tmp_path / name for name in ("a", "b", "c")]
    for number, root in enumerate(roots, start=1):
        collect_share(SETTINGS, root, Share(number=number, count=3), workers=1)
    with pytest.raises(ValueError, match="1 of 4 shards are missing, the first is shard-00002"):
        merge(SETTINGS, roots[0], parts=[roots[1]])
    merge(SETTINGS, roots[0], parts=roots[1:])
    assert everything(roots[0]) == expected
    collect(SETTINGS, roots[2], workers=1)  # a part is left as it was, and can be completed itself
    assert everything(roots[2]) == expected


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers(expected, tmp_path):
    assert end(start(tmp_path / "data", workers=2, cluster="local"))[0] == 0
    assert everything(tmp_path / "data") == expected


def test_a_killed_run_is_continued(expected, tmp_path):
    root = tmp_path / "data"
    assert end(start(root, workers=2, kill=True))[0] == -9
    folder = SETTINGS.directory(root).with_name(f".partial-{SETTINGS.directory(root).name}")
    shutil.rmtree(folder / "shard-00003", ignore_errors=True)  # workers may be quicker than the kill
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert 1 <= len(kept) < 4
    (folder / ".shard-00003-123").mkdir()  # and what a kill inside a shard leaves
    (folder / ".shard-00003-123" / "pixels.npy").write_bytes(b"half")
    collect(SETTINGS, root, workers=1)
    assert everything(root) == expected
    final = SETTINGS.directory(root)
    assert {name: (final / name).stat().st_mtime_ns for name in kept} == kept


def test_a_run_killed_between_manifest_and_name_is_continued(expected, tmp_path):
    final = collect(SETTINGS, tmp_path, workers=1)
    final.rename(final.with_name(f".partial-{final.name}"))
    merge(SETTINGS, tmp_path)
    assert everything(tmp_path) == expected


def test_all_at_once(expected, tmp_path):
    root = tmp_path / "data"
    jobs = [start(root), start(root), start(root, share="1/2"), start(root, share="1/2"), start(root, share="2/2")]
    for job in jobs:
        code, output = end(job)
        assert code == 0, output
    assert everything(root) == expected


def test_overlapping_shares_of_the_same_moment(expected, tmp_path, monkeypatch):
    """Another job puts a shard in place while this one writes it."""
    original = collect_module.write_shard

    def overtaken(path, episodes, columns):
        rows = list(episodes)
        original(path, rows, columns)
        return original(path, rows, columns)

    monkeypatch.setattr(collect_module, "write_shard", overtaken)
    collect(SETTINGS, tmp_path, workers=1)
    assert everything(tmp_path) == expected


# -- what is written --------------------------------------------------------------------------------------------------
def test_rows_are_what_the_environment_does(tiny_store):
    store = EpisodeStore(tiny_store)
    env = TwoRoom(image_size=32)
    for episode in (0, 27):
        first = store.offsets[episode]
        rows = first + np.arange(store.lengths[episode])
        states, actions, pixels = (store.read(name, rows) for name in ("state", "action", "pixels"))
        env.set_state(states[0])
        for step in range(len(rows) - 1):
            np.testing.assert_allclose(env.state, states[step], atol=1e-4)
            np.testing.assert_allclose(env.render().astype(int), pixels[step].astype(int), atol=1)
            env.advance(actions[step])
        assert np.isnan(actions[-1]).all()
        assert np.isfinite(actions[:-1]).all()


@pytest.mark.parametrize("frames", ["raw", "png", "jpeg"])
def test_columns_that_an_environment_adds(tmp_path, frames):
    settings = Collection(
        env="jepakit.envs.collisions:Collisions",
        policy="jepakit.envs.scene_env:OccasionalPushes",
        episodes=6,
        steps=25,
        image_size=32,
        frames=frames,
    )
    store = EpisodeStore(collect(settings, tmp_path, workers=1))
    env = Collisions(image_size=32)
    assert store.columns["mask"].codec == ("raw" if frames == "raw" else "png")
    pushes, hits = 0, 0
    for first, length in zip(store.offsets, store.lengths, strict=True):
        rows = first + np.arange(length)
        names = ("state", "action", "mask", "contacts", "contact", "proprio")
        states, actions, masks, contacts, contact, proprio = (store.read(name, rows) for name in names)
        truth = env.resimulate(states[0], length - 1, actions=actions[:-1])
        np.testing.assert_array_equal(truth.states, states[1:])
        np.testing.assert_array_equal(truth.contacts, contacts[:-1])
        assert not contacts[-1].any()
        for state, mask, felt in zip(states, masks, proprio, strict=True):
            env.set_state(state)
            np.testing.assert_array_equal(env.annotations()["mask"], mask)
            np.testing.assert_array_equal(env.proprio_of(env.state), felt)
        between_objects = [i for i, (_, j) in enumerate(pairs(Collisions.slots)) if j != Collisions.slots]
        np.testing.assert_array_equal(contacts[:, between_objects].any(axis=1), contact)
        pushes += np.count_nonzero(actions[:-1].any(axis=1))
        hits += contact.sum()
    assert pushes
    assert hits


def test_other_settings_make_another_data_set(tiny_collection):
    names = {
        replace(tiny_collection, **change).directory(collect_module.Path("."))
        for change in ({}, {"seed": 1}, {"steps": 41}, {"episodes": 31}, {"image_size": 48}, {"revision": 2})
    }
    assert len(names) == 6


# -- errors -----------------------------------------------------------------------------------------------------------
def test_an_interrupted_generation_looks_incomplete_and_is_continued(tiny_collection, tmp_path, monkeypatch):
    written = []
    original = collect_module._make_shard

    def interrupted_after_one(settings, root, shard):
        if written:
            raise KeyboardInterrupt
        written.append(shard)
        return original(settings, root, shard)

    monkeypatch.setattr(collect_module, "_make_shard", interrupted_after_one)
    with pytest.raises(KeyboardInterrupt):
        collect(tiny_collection, tmp_path, workers=1)
    assert not tiny_collection.directory(tmp_path).exists()
    monkeypatch.setattr(collect_module, "_make_shard", original)
    reports = []
    path = collect(tiny_collection, tmp_path, workers=1, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(30, 30)]  # 25 episodes were kept
    assert len(EpisodeStore(path).lengths) == 30


def test_a_shard_that_fails_leaves_nothing(tiny_collection, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        collect(tiny_collection, tmp_path, workers=1)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob(MANIFEST))


def test_a_failing_worker_process_is_reported(tmp_path):
    settings = replace(SETTINGS, policy="jepakit.envs.tworoom:NoSuchPolicy")
    with pytest.raises(AttributeError, match="NoSuchPolicy"):
        collect(settings, tmp_path, workers=2)


def test_a_shard_that_no_one_sees_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(collect_module, "_make_shard", lambda settings, folder, shard: shard)
    with pytest.raises(FileNotFoundError, match="shard-00000: made by a worker but not to be seen here"):
        collect(SETTINGS, tmp_path, workers=1)


def test_a_folder_that_is_no_data_set_is_not_touched(tmp_path):
    SETTINGS.directory(tmp_path).mkdir()
    with pytest.raises(ValueError, match=r"exists without manifest\.json"):
        collect(SETTINGS, tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(collect_module.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"\.lock: cannot be locked \(No locks available\); give every job a root"):
        collect(SETTINGS, tmp_path)


def test_shards_of_another_run_are_noticed(tmp_path):
    folder = collect_share(SETTINGS, tmp_path, Share(number=1, count=1), workers=1)
    shutil.rmtree(folder / "shard-00003")
    shutil.copytree(folder / "shard-00000", folder / "shard-00003")
    record = folder / "shard-00003" / "shard.json"
    record.write_text(record.read_text().replace("shard-00000", "shard-00003"))
    with pytest.raises(ValueError, match="found 100 episodes, expected 90"):
        merge(SETTINGS, tmp_path)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/3", ""])
def test_wrong_shares_are_refused(text):
    with pytest.raises(ValueError, match="share: found"):
        Share.parse(text)


def test_a_missing_ray_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'jepakit\[ray\]'"):
        list(each_result(len, ["a"], cluster="auto"))
