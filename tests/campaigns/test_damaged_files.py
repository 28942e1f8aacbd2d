"""Two hundred damaged files for every reader: an error that names the file, or the right data."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from damaged_files import QUICK, examine
from subjects import SUBJECTS


@pytest.mark.parametrize("name", SUBJECTS)
def test_damage_is_refused_by_name_or_does_no_harm(name):
    counts, failures = examine(name, QUICK)
    print(f"{name}: {dict(counts)}")
    assert not failures, "\n".join(failures)
    assert sum(counts.values()) == QUICK >= 200
    assert counts["refused"] >= QUICK // 5  # the damage arrives
