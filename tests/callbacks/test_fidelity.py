"""The fidelity probe on models whose truth is known: one that knows the world, and one that is deaf to actions."""

import json

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger
from oracle import LEWM, Deaf, Oracle, prepared
from PIL import Image
from runs import make

from jepakit.callbacks import CounterfactualProbe, FidelityProbe, LatentMap, PlanningProbe, SurpriseProbe
from jepakit.callbacks.fidelity import Bank
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.results import read_probe
from jepakit.zoo import LeWM

torch.set_num_threads(1)

SMALL = {"tasks": 3, "candidates": 12, "horizon": 2, "windows": 16}


def test_a_model_that_knows_the_world(data, tmp_path):
    found = FidelityProbe(**SMALL).measure(prepared(Oracle(), data), data, tmp_path)
    assert found["latent_distance"] == pytest.approx(1.0)  # squared distance and distance rank alike
    assert found["ranking_random"] == pytest.approx(1.0, abs=0.02)  # but for rounding where candidates are alike
    assert found["ranking_elite"] == pytest.approx(1.0, abs=0.02)
    assert found["open_loop_over_static"] < 1e-6
    assert found["shuffle_gap"] > 1e6
    picture = np.asarray(Image.open(tmp_path / "fidelity.png").convert("RGB"))
    assert picture.std() > 10


def test_a_model_that_does_not_listen(data, tmp_path):
    found = FidelityProbe(**SMALL).measure(prepared(Deaf(), data), data, tmp_path)
    assert found["open_loop_over_static"] == pytest.approx(1.0)
    assert found["shuffle_gap"] == pytest.approx(1.0)
    assert np.isnan(found["ranking_random"])  # all plans look alike
    assert found["latent_distance"] == pytest.approx(1.0)


def test_measuring_again_finds_the_same(data, tmp_path):
    model = prepared(Oracle(), data)
    first, second = (FidelityProbe(**SMALL).measure(model, data, tmp_path) for _ in range(2))
    assert first == second
    assert FidelityProbe(**SMALL, seed=1).measure(model, data, tmp_path) != first


def test_ranking_by_hand():
    true = np.float32([[1, 2, 3, 4], [5, 5, 5, 5], [1, 2, 3, 4]])
    predicted = np.float32([[10, 20, 30, 40], [1, 2, 3, 4], [4, 3, 2, 1]])
    assert Bank(predicted, true).ranking() == pytest.approx(0.0)  # +1 and −1; the task without a difference is out
    assert Bank(predicted[:2], true[:2]).ranking() == pytest.approx(1.0)


def fit(data, folder, probe, epochs):
    model = LeWM(LEWM)
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[probe],
        enable_progress_bar=False,
        limit_train_batches=2,
        limit_val_batches=1,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=data)
    return model


def test_it_measures_during_and_after_training_and_changes_nothing(data, tmp_path):
    L.seed_everything(0)
    probed = fit(data, tmp_path / "probed", FidelityProbe(every_n_epochs=1, **SMALL), epochs=2)
    L.seed_everything(0)
    plain = fit(data, tmp_path / "plain", L.Callback(), epochs=2)
    torch.testing.assert_close(probed.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert probed.model.training
    measured = json.loads((tmp_path / "probed" / "probes" / "fidelity.json").read_text())["measured"]
    assert [entry["step"] for entry in measured] == [2, 4]
    assert set(measured[0]["values"]) == {
        *("ranking_random", "ranking_elite", "latent_distance"),
        *("open_loop_over_static", "shuffle_gap"),
    }
    logged = (tmp_path / "probed" / "metrics.csv").read_text()
    assert "probe/fidelity/ranking_random" in logged


def test_wrong_settings_are_refused(data, tmp_path):
    for field, value, least in (("tasks", 0, 1), ("horizon", 0, 1), ("candidates", 1, 2), ("windows", 1, 2)):
        with pytest.raises(ValueError, match=rf"FidelityProbe.{field}: found {value}, expected at least {least}"):
            FidelityProbe(**{field: value})
    with pytest.raises(ValueError, match=r"FidelityProbe.every_n_epochs: found -1, expected at least 0"):
        FidelityProbe(every_n_epochs=-1)
    trainer = L.Trainer(callbacks=[FidelityProbe()], logger=False, enable_checkpointing=False, max_steps=1)
    with pytest.raises(ValueError, match="FidelityProbe: found BoringModel and BoringDataModule, expected a world mod"):
        trainer.fit(BoringModel(), datamodule=BoringDataModule())


def test_data_without_an_environment_are_refused_before_the_training(tworoom_store, tmp_path):
    own = EpisodeDataModule(str(tworoom_store), image_size=32, batch_size=4)
    for probe in (FidelityProbe(), PlanningProbe(), SurpriseProbe(), CounterfactualProbe()):
        trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[probe], max_steps=1, default_root_dir=tmp_path)
        with pytest.raises(ValueError, match="no environment belongs to this data"):
            trainer.fit(make(), own)
        assert trainer.global_step == 0


def test_other_steps_figures_stay_but_for_those_after_a_resumed_training(data, tmp_path):
    model, probe = prepared(Oracle(), data), LatentMap(frames=10)

    def steps():
        return [entry["step"] for entry in read_probe(tmp_path / "latent_map.json")]

    for step in (3, 6, 0, 3):
        probe.run(model, data, tmp_path, step=step)
    assert steps() == [0, 3, 6]
    probe.run(model, data, tmp_path, step=3, keep_later=False)
    assert steps() == [0, 3]
