"""Impossible physics, for models whose truth is known: their latents are the scene's state."""

import numpy as np
import pytest
from oracle import Blind, Oracle, Simulator, prepared

from jepakit.callbacks import PhysicsProbe
from jepakit.callbacks.scenes import rendered
from jepakit.envs.collisions import Collisions as Scene

SMALL = {"cases": 6}


def test_the_impossible_surprises_who_knows_the_laws(scenes, tmp_path):
    found = PhysicsProbe(**SMALL).measure(prepared(Simulator(), scenes), scenes, tmp_path)
    for kind in ("ghost", "frozen"):
        assert found[f"{kind}/auroc"] == 1.0
        assert found[f"{kind}/ratio"] > 10
    assert (tmp_path / "physics.png").is_file()


def test_ghosts_do_not_surprise_who_knows_nothing_else(scenes, tmp_path):
    found = PhysicsProbe(**SMALL).measure(prepared(Blind(), scenes), scenes, tmp_path)
    assert found["ghost/ratio"] < 1.0  # the possible clip is the strange one
    assert found["frozen/ratio"] > 1.0


def test_clips_are_drawn_as_the_data_are(scenes):
    source, environment = scenes.source, Scene(image_size=16)
    rows = source.offsets[3] + np.arange(4)
    states = source.read("state", rows).astype(np.float64)
    clips = rendered(environment, states[None], prepared(Simulator(), scenes))
    for name in ("pixels", "proprio", "state"):
        np.testing.assert_array_equal(clips[name][0], source.read(name, rows), err_msg=name)
    assert clips["action"].shape == (1, 4, 10)


def test_other_data_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="PhysicsProbe: found data of TwoRoom, expected Collisions or Gravity"):
        PhysicsProbe().measure(prepared(Oracle(), data), data, tmp_path)
