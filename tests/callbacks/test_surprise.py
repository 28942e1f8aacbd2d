"""Surprise of models whose truth is known, and what the violations change."""

import numpy as np
import pytest
import torch
from oracle import Deaf, Oracle, prepared
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score

from jepakit.callbacks import SurpriseProbe
from jepakit.callbacks.surprise import recoloured, surprise, teleported
from jepakit.datamodules.tasks import draw_windows
from jepakit.datamodules.windows import WindowSpec


@pytest.fixture
def clips(data):
    return draw_windows(data, WindowSpec(history=2, predictions=2, frame_skip=5), count=6, part="test")


def test_a_model_that_knows_the_world_is_surprised_by_a_jump_and_blind_to_colour(data, tmp_path):
    model = prepared(Oracle(), data)  # its latents are positions
    model.config = model.config.__class__(image_size=32, history=1)
    found = SurpriseProbe(clips=6, after=2).measure(model, data, tmp_path)
    assert found["teleport/auroc"] == 1.0
    assert found["teleport/ratio"] > 100
    assert found["colour/auroc"] == pytest.approx(0.5)
    assert found["colour/ratio"] == pytest.approx(1.0)
    assert (tmp_path / "surprise.png").is_file()


def test_after_the_jump_the_world_is_as_expected(data, clips):
    model = prepared(Oracle(), data)
    curve = surprise(model, teleported(clips, 2, data))
    assert curve[:, 1].min() > 100 * curve[:, [0, 2]].max()


def test_a_deaf_model_is_surprised_by_all_that_moves(data, clips):
    model = prepared(Deaf(), data)
    moved = np.square(np.diff(clips["proprio"], axis=1)).sum(axis=2)
    np.testing.assert_allclose(surprise(model, clips), moved, rtol=1e-4)


def test_figures_are_those_of_other_libraries(data, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    curves = iter(rng.normal(size=(3, 6, 3)).astype(np.float32))
    drawn = []
    monkeypatch.setattr("jepakit.callbacks.surprise.surprise", lambda *_: drawn.append(next(curves)) or drawn[-1])
    model = prepared(Oracle(), data)
    model.config = model.config.__class__(image_size=32, history=1)
    found = SurpriseProbe(clips=6, after=2).measure(model, data, tmp_path)
    usual, colour, _ = (curve[:, 1] for curve in drawn)
    assert found["colour/auroc"] == pytest.approx(roc_auc_score([0] * 6 + [1] * 6, [*usual, *colour]), abs=1e-6)
    assert found["colour/p"] == pytest.approx(ttest_rel(colour, usual).pvalue)


def test_violations_change_what_they_say_and_from_then_on(data, clips):
    shown = recoloured(clips, 2)
    assert (shown["pixels"][:, :2] == clips["pixels"][:, :2]).all()
    assert (shown["pixels"][:, 2:, ..., 1] == clips["pixels"][:, 2:, ..., 0]).all()
    jumped = teleported(clips, 2, data)
    for name in ("pixels", "state", "proprio", "action"):
        assert (jumped[name][:, :2] == clips[name][:, :2]).all(), name
        other = np.roll(clips[name], 1, axis=0)[:, 2:]
        assert (jumped[name][:, 2:] == other).all(), name  # in Two-Room there is nothing but the agent
    assert torch.is_grad_enabled()
