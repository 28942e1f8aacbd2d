"""What if an object were not there, for models whose truth is known: their latents are the scene's state."""

import numpy as np
import pytest
from oracle import Blind, Oracle, Simulator, prepared
from PIL import Image

from jepakit.callbacks import CounterfactualProbe
from jepakit.callbacks.counterfactual import _touched
from jepakit.callbacks.scenes import MATTERS, moved
from jepakit.envs.scene_env import Continuation

SMALL = {"cases": 4}


def test_who_knows_the_laws_knows_what_would_be(scenes, tmp_path):
    found = CounterfactualProbe(**SMALL).measure(prepared(Simulator(), scenes), scenes, tmp_path)
    assert found["cf_gain"] == found["cf_gain_ceiling"] == pytest.approx(1.0, abs=1e-6)
    assert found["f1"] == found["f1_ceiling"] == 1.0
    assert found["cf_gain_floor"] < found["cf_gain"]
    assert found["f1_went"] <= 2 / 3
    assert 0 < found["share"] < 1
    height, width = np.asarray(Image.open(tmp_path / "counterfactual.png")).shape[:2]
    assert height > width > 300  # cases below each other


def test_who_does_not_know_them_does_worse(scenes, tmp_path):
    """To the blind nothing ever collides: right in half of the cases, and never the answer that counts."""
    found = CounterfactualProbe(**SMALL).measure(prepared(Blind(), scenes), scenes, tmp_path)
    assert found["cf_gain"] < 0.99
    assert found["f1"] == 0.0


def test_outcomes_are_balanced(scenes):
    probe, model = CounterfactualProbe(**SMALL), prepared(Simulator(), scenes)
    environment = probe.environment(scenes)
    cases, _ = probe._draw(scenes, environment, model)
    assert [case.collide for case in cases] == [True] * 2 + [False] * 2
    for case in cases:
        path = environment.resimulate(case.would[1], 20)
        assert (path.states[4::5] == case.would[2:]).all()
        assert moved(case.factual, case.would[-1]) >= MATTERS
        assert moved(case.other, case.would[-1]) >= MATTERS
        if not case.collide:
            assert not _touched(Continuation(*path), environment.slots)


def test_other_data_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="CounterfactualProbe: found data of TwoRoom, expected Collisions or Gravity"):
        CounterfactualProbe().measure(prepared(Oracle(), data), data, tmp_path)


def test_scenes_in_which_nothing_meets_are_named(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("jepakit.callbacks.counterfactual.MATTERS", 1e9)
    with pytest.raises(ValueError, match=r"CounterfactualProbe.cases: found fewer than 2 that matter in 200 draws"):
        CounterfactualProbe(cases=2, horizon=1).measure(prepared(Simulator(), scenes), scenes, tmp_path)
