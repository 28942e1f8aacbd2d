import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from samples import LENGTHS, marked_frame, read_marks, write_dinowm, write_lerobot, write_video

FIXTURES = Path(__file__).parent.parent.parent / "fixtures" / "datasets"


@pytest.fixture(scope="session")
def sample():
    return FIXTURES / "pusht_sample.h5"


@pytest.fixture(scope="session")
def sample_lance():
    return FIXTURES / "pusht_sample.lance"


@pytest.fixture(scope="session")
def lengths():
    return LENGTHS


@pytest.fixture(scope="session")
def marks():
    return read_marks


@pytest.fixture(scope="session")
def film():
    """``film(path, episodes, …)`` writes the marked frames of the given episodes into one video."""

    def write(path, episodes, *, noise=0, **options):
        frames = [marked_frame(e, s) for e in episodes for s in range(LENGTHS[e])]
        rng = np.random.default_rng(0)
        write_video(path, [f + rng.integers(0, noise + 1, f.shape, dtype=np.uint8) for f in frames], **options)

    return write


@pytest.fixture
def dinowm(tmp_path):
    folder = tmp_path / "pusht_noise"
    return folder, write_dinowm(folder)


@pytest.fixture
def lerobot(tmp_path):
    folder = tmp_path / "lerobot_set"
    return folder, *write_lerobot(folder)
