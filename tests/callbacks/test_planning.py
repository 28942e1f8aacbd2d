"""Planning during training: the success of models whose truth is known, and what may watch it."""

import lightning as L
import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from oracle import LEWM, Deaf, Oracle, prepared

from jepakit.callbacks import PlanningProbe
from jepakit.planning.cem import CEMConfig
from jepakit.planning.settings import MPCConfig, PlannerConfig
from jepakit.zoo import LeWM

PLANNER = PlannerConfig(
    cem=CEMConfig(samples=24, elites=4, iterations=3), mpc=MPCConfig(horizon=2, execute_blocks=2), bounded=True
)
SMALL = {"tasks": 4, "offset": 10, "planner": PLANNER}


def test_who_knows_the_world_arrives_and_who_is_deaf_does_not(data, tmp_path):
    knows, deaf = (
        PlanningProbe(**SMALL).measure(prepared(model, data), data, tmp_path) for model in (Oracle(), Deaf())
    )
    assert knows["success"] >= 0.75
    assert deaf["success"] < knows["success"]
    assert deaf["success_low"] <= deaf["success"] <= deaf["success_high"]


def test_checkpoints_and_early_stopping_can_watch_it(data, tmp_path, monkeypatch):
    rates = iter([0.25, 0.75, 0.5, 0.5])  # the end of the fit does not measure the last epoch again
    monkeypatch.setattr(PlanningProbe, "measure", lambda *_: {"success": next(rates)})
    best = ModelCheckpoint(
        tmp_path, monitor="probe/planning/success", mode="max", filename="{epoch}", save_on_train_epoch_end=True
    )
    stop = EarlyStopping("probe/planning/success", mode="max", patience=2, check_on_train_epoch_end=True)
    trainer = L.Trainer(
        max_epochs=5,
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[PlanningProbe(every_n_epochs=1, **SMALL), best, stop],
        enable_progress_bar=False,
        limit_train_batches=1,
        limit_val_batches=1,
        accelerator="cpu",
    )
    trainer.fit(LeWM(LEWM), datamodule=data)
    assert best.best_model_path.endswith("epoch=1.ckpt")
    assert best.best_model_score == pytest.approx(0.75)
    assert trainer.current_epoch == 4  # stopped after two epochs without a better one


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"PlanningProbe.tasks: found 0, expected at least 1"):
        PlanningProbe(tasks=0)
