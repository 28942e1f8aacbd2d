"""What coverage-guided fuzzing found worth keeping (``fuzz.py``), replayed; Atheris itself is not needed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from targets import TARGETS

CORPUS = Path(__file__).parent.parent / "fixtures" / "fuzz"


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input(name):
    target = TARGETS[name]()
    inputs = sorted((CORPUS / name).iterdir())
    for file in inputs:
        try:
            target(file.read_bytes())
        except Exception as error:
            raise AssertionError(f"{file.name}: {error!r}") from error
    for seed in target.seeds:
        target.read(seed[0], seed[1:])  # what is valid is read
    target.close()
    print(f"{name}: {len(inputs)} inputs")
    assert len(inputs) >= 15
