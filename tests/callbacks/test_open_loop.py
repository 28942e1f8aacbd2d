"""The open-loop error of models whose truth is known."""

import numpy as np
import pytest
from oracle import Deaf, Oracle, prepared
from PIL import Image

from jepakit.callbacks import OpenLoopError


def test_a_model_that_knows_the_world_errs_nowhere(data, tmp_path):
    found = OpenLoopError(horizon=3, windows=16).measure(prepared(Oracle(), data), data, tmp_path)
    assert set(found) == {f"block_{block}/{name}" for block in (1, 2, 3) for name in ("error", "over_static")}
    assert all(value < 1e-6 for value in found.values())
    assert np.asarray(Image.open(tmp_path / "open_loop.png").convert("RGB")).std() > 10


def test_a_model_in_which_nothing_moves_is_the_static_one(data, tmp_path):
    found = OpenLoopError(horizon=3, windows=16).measure(prepared(Deaf(), data), data, tmp_path)
    assert [found[f"block_{block}/over_static"] for block in (1, 2, 3)] == pytest.approx([1.0] * 3)
    assert found["block_3/error"] > found["block_1/error"] > 0


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"OpenLoopError.horizon: found 0, expected at least 1"):
        OpenLoopError(horizon=0)
