"""Pickles that leave a trace when anything in them is run."""

import os

import pytest


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def bomb(tmp_path):
    """An object that makes a folder when it is unpickled; no test may leave the folder behind."""
    trace = tmp_path / "exploded"
    yield Bomb(trace)
    assert not trace.exists()
