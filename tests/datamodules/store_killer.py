"""Kill a writer at its n-th file operation, for every n: run as a program by test_store_writer.py."""

import os
import sys
from pathlib import Path

import numpy as np

from jepakit.datamodules.store import MANIFEST, Column, EpisodeStore, EpisodeWriter

COLUMNS = {
    "pixels": Column(dtype="uint8", shape=(8, 8, 3), codec="png"),
    "action": Column(dtype="float32", shape=(2,)),
}
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


def episode(number):
    rng = np.random.default_rng(number)
    steps = 3 + number
    return {
        "pixels": rng.integers(0, 255, (steps, 8, 8, 3), dtype=np.uint8),
        "action": rng.standard_normal((steps, 2)).astype(np.float32),
    }


def write(path, count):
    with EpisodeWriter(path, COLUMNS) as writer:
        for number in range(writer.committed, count):
            writer.append(episode(number))
            writer.commit()


def killed_at(path, operation):
    """Write three episodes in a child that dies at an operation; true if it lived."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event, arguments):
            nonlocal seen
            if event in EVENTS and str(path) in str(arguments[0]):
                seen += 1
                if seen == operation:
                    os._exit(9)

        sys.addaudithook(count)
        write(path, 3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def check(path):
    """What is there is readable and right, and can be continued; returns the episodes found."""
    if not (path / MANIFEST).exists():
        found = 0
    else:
        store = EpisodeStore(path)
        found = len(store.lengths)
        assert store.complete is False or found == 3
        assert store.verify() == []
    write(path, 3)
    store = EpisodeStore(path)
    assert store.complete
    assert store.lengths.tolist() == [3, 4, 5]
    for name in COLUMNS:
        expected = np.concatenate([episode(number)[name] for number in range(3)])
        np.testing.assert_array_equal(store.read(name, np.arange(12)), expected)
    leftovers = {p.name for p in path.iterdir()} - {MANIFEST, ".lock", *(f"shard-{n:05d}" for n in range(3))}
    assert not leftovers
    return found


def main():
    root = Path(sys.argv[1])
    found, operation = [], 1
    while not killed_at(root / str(operation), operation):
        found.append(check(root / str(operation)))
        operation += 1
    print(*found)


if __name__ == "__main__":
    main()
