"""The collapse monitor: its numbers against NumPy, its alarm where latents collapse, its silence where they do not."""

import math
import warnings
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from jepakit.callbacks import CollapseMonitor
from jepakit.callbacks.collapse import collapse_figures, encoder_learns
from jepakit.zoo import CJEPA, DINOWM, PLDM, VJEPA, LeWM

torch.set_num_threads(1)

SMALL = {
    **{"image_size": 16, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8, "projector_hidden": 20},
    **{"action_mixed": 5, "action_hidden": 14, "predictor_width": 12, "predictor_depth": 1, "predictor_heads": 2},
    **{"predictor_head_dim": 4, "predictor_mlp": 16},
}
PATCHES = {
    **{"image_size": 16, "patch_size": 4, "vit_width": 12, "vit_depth": 1, "vit_heads": 3, "vit_mlp": 16},
    **{"mask_predictor_width": 8, "mask_predictor_depth": 1, "mask_predictor_heads": 2, "predictor_width": 10},
    **{"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16},
}


def batches(count=3, *, constant=False):
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        pixels = torch.randint(0, 256, (8, 4, 16, 16, 3), dtype=torch.uint8, generator=generator)
        action = torch.randn(8, 4, 10, generator=generator)
        made.append({"pixels": torch.full_like(pixels, 100) if constant else pixels, "action": action})
    return made


def make(family=LeWM, lr=1e-2, **changes):
    torch.manual_seed(0)
    return family(config={**SMALL, **changes}, optimizer={"lr": lr})


def fit(module, callbacks, steps, data=None, **changes):
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    short = {"enable_model_summary": False, "log_every_n_steps": 1, "limit_val_batches": 0}
    trainer = L.Trainer(max_steps=steps, callbacks=callbacks, **{**settings, **short, **changes})
    loader = torch.utils.data.DataLoader(data or batches(), batch_size=None)
    trainer.fit(module, loader, loader)
    return trainer


def alarms(module, steps, data=None, **changes):
    """Messages of a training with the monitor, and its trainer."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(module, [CollapseMonitor(**changes)], steps, data)
    return [str(entry.message) for entry in caught if "collapsed" in str(entry.message)], trainer


# -- the numbers ------------------------------------------------------------------------------------------------------
def correlated(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[-1], shape[-1], generator=generator)
    return 3.0 + torch.randn(*shape, generator=generator) @ mixing


def test_numbers_are_those_of_numpy():
    latents = correlated(20, 4, 1, 6)
    found = collapse_figures(latents, 7)
    z = latents.double().numpy().reshape(80, 6)
    singular = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    p = singular / singular.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert found["std_mean"] == pytest.approx(z.std(axis=0).mean(), rel=1e-5)
    assert found["std_min"] == pytest.approx(z.std(axis=0).min(), rel=1e-5)
    between = np.corrcoef(z.T)[~np.eye(6, dtype=bool)]
    assert found["correlation"] == pytest.approx(np.sqrt((between**2).mean()), rel=1e-5)


def test_gaussianity_is_epps_pulley_of_standardised_slices():
    x = np.random.default_rng(0).uniform(size=200)  # of one dimension every slice is the same, but for its sign
    found = collapse_figures(torch.from_numpy(x).reshape(50, 4, 1, 1), 0)
    standard, t = (x - x.mean()) / x.std(), np.linspace(0.0, 3.0, 17)
    error = np.abs(np.exp(1j * np.outer(t, standard)).mean(axis=1) - np.exp(-(t**2) / 2)) ** 2
    heights = error * np.exp(-(t**2) / 2)
    expected = 200 * 2 * (heights.sum() - (heights[0] + heights[-1]) / 2) * t[1]  # the trapezoid rule, both halves
    assert found["gaussianity"] == pytest.approx(expected, rel=1e-3)
    assert math.isnan(found["correlation"])


def test_only_the_shape_of_slices_counts_for_gaussianity():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(512, 1, 1, 4, generator=generator)
    coins = torch.randint(0, 2, (512, 1, 1, 4), generator=generator).float()
    figures = [collapse_figures(z, 0)["gaussianity"] for z in (normal, 5 + 0.01 * normal, coins)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-2)
    assert figures[0] < 1.0 < figures[2]


def test_the_rank_counts_directions():
    line = torch.randn(64, 4, 1, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(8)
    found = collapse_figures(line, 0)
    assert found["effective_rank"] == pytest.approx(1.0, abs=1e-3)
    assert found["correlation"] == pytest.approx(1.0, abs=1e-5)
    assert collapse_figures(torch.randn(512, 1, 1, 8, generator=torch.Generator().manual_seed(0)), 0)[
        "effective_rank"
    ] == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_that_differ_by_their_place_only_are_collapsed(dtype):
    places = torch.randn(1, 1, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = collapse_figures(places.expand(300, 4, 5, 8), 0)
    assert found["effective_rank"] == 0.0
    assert found["std_mean"] < 1e-6
    assert math.isnan(found["gaussianity"])


def test_a_sample_of_rows_says_what_all_would():
    latents = correlated(500, 4, 4, 6)
    small, whole = collapse_figures(latents, 0), latents.double().flatten(0, 2).std(dim=0, correction=0)
    assert small["std_mean"] == pytest.approx(whole.mean().item(), rel=0.1)
    assert small == collapse_figures(latents, 0) != collapse_figures(latents, 1)


def test_latents_that_are_not_finite_have_no_figures():
    assert all(math.isnan(value) for value in collapse_figures(torch.full((4, 4, 1, 8), math.inf), 0).values())


# -- the alarm --------------------------------------------------------------------------------------------------------
def test_without_its_regulariser_lewm_alarms_once_within_100_steps():
    messages, trainer = alarms(make(lambda_=0.0, directions=8), 80)
    (message,) = messages
    assert int(message.split(":")[0].removeprefix("step ")) < 100
    assert "std_mean" in message
    assert "lambda_" in message
    assert trainer.global_step == 80


@pytest.mark.parametrize(("family", "changes"), [(LeWM, {"directions": 8}), (PLDM, {})])
def test_constant_frames_alarm_and_stop(family, changes):
    messages, trainer = alarms(make(family, **changes), 100, batches(constant=True), stop=True, every_n_steps=10)
    assert len(messages) == 1
    assert "training stops" in messages[0]
    assert trainer.global_step == 10  # measured at the first step and at this one


def test_patches_of_constant_frames_alarm():
    torch.manual_seed(0)
    module = VJEPA(config={**PATCHES, "encoder_steps": 50}, optimizer={"lr": 1e-3})
    messages, trainer = alarms(module, 60, batches(constant=True), stop=True)
    assert len(messages) == 1
    assert trainer.global_step == 20


@pytest.mark.parametrize(("family", "changes"), [(LeWM, {"directions": 32}), (PLDM, {})])
def test_healthy_training_is_not_alarmed(family, changes):
    messages, trainer = alarms(make(family, **changes), 200, stop=True)
    assert messages == []
    assert trainer.global_step == 200


def judged(monitor, *std_means):
    return [monitor._collapsed({"std_mean": std, "effective_rank": 5.0}) for std in std_means]


def test_small_latents_alarm_only_after_they_have_shrunk_twice_in_a_row():
    assert not any(judged(CollapseMonitor(), 0.05, 0.04, 0.03, 0.05))  # of that scale from the start
    assert judged(CollapseMonitor(), 0.3, 0.05, 0.3, 0.05, 0.05) == [False, False, False, False, True]
    assert not any(judged(CollapseMonitor(), 3.0, 0.5, 0.5, 0.5))
    assert not any(judged(CollapseMonitor(), 0.3, math.nan, math.nan))


def test_latents_on_few_directions_alarm_only_after_they_were_on_many():
    def ranks(*found):
        monitor = CollapseMonitor()
        return [monitor._collapsed({"std_mean": 0.3, "effective_rank": rank}) for rank in found]

    assert ranks(24.4, 3.7, 3.0) == [False, False, True]  # measured: a nano LeWM without its regulariser
    assert not any(ranks(24.4, 11.7, 11.4))  # and with it
    assert not any(ranks(2.0, 2.0, 1.5))


def test_a_resumed_run_judges_as_one_that_never_stopped():
    first, second = CollapseMonitor(), CollapseMonitor()
    judged(first, 0.3, 0.05)
    second.load_state_dict(first.state_dict())
    assert judged(second, 0.05) == [True]


def test_no_alarm_while_the_encoder_does_not_learn():
    torch.manual_seed(0)
    module = VJEPA(config={**PATCHES, "encoder_steps": 1}, optimizer={"lr": 1e-3})
    messages, trainer = alarms(module, 6, batches(constant=True), stop=True, every_n_steps=1)
    assert messages == []
    assert trainer.global_step == 6
    assert not encoder_learns(module.model)


def test_which_encoders_learn():
    objects = {"image_size": 16, "slots": 2, "slot_dim": 8, "predictor_depth": 1}
    frozen = DINOWM(config={"image_size": 16, "encoder": "cnn", "encoder_size": 16, "cnn_channels": [4, 6]})
    attention = CJEPA(config={**objects, "encoder": "slot_attention", "encoder_steps": 3})
    given = CJEPA(config={**objects, "encoder": "features"})
    learn = [encoder_learns(module.model) for module in (make(), make(PLDM), frozen, attention, given)]
    assert learn == [True, True, False, True, False]
    attention.model.step_done(3)
    assert not encoder_learns(attention.model)


# -- the rest of the run ----------------------------------------------------------------------------------------------
def test_the_run_is_not_disturbed():
    modules, draws = [], []
    for callbacks in ([], [CollapseMonitor(every_n_steps=2)]):
        module = make(directions=8)  # with dropout, which draws global random numbers
        fit(module, callbacks, 7)
        modules.append(module)
        draws.append(torch.rand(3))
    torch.testing.assert_close(modules[1].state_dict(), modules[0].state_dict(), rtol=0, atol=0)
    assert torch.equal(*draws)


def test_it_logs_the_first_step_and_every_nth_also_of_accumulated_batches(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    fit(make(directions=8), [CollapseMonitor(every_n_steps=4)], 9, logger=logger, accumulate_grad_batches=2)
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True, deletechars="")
    names = {"effective_rank", "std_mean", "std_min", "correlation", "gaussianity"}
    assert {f"collapse/{name}" for name in names} <= set(rows.dtype.names)
    measured = rows[np.isfinite(rows["collapse/std_mean"])]
    assert measured["step"].tolist() == [1, 4, 8]


def test_only_the_first_process_measures():
    monitor = CollapseMonitor(every_n_steps=1)
    module = make()
    asked = []
    trainer = SimpleNamespace(
        global_step=1, is_global_zero=False, strategy=SimpleNamespace(broadcast=lambda found: asked.append(found))
    )
    outputs = {"outputs": {"latents": torch.zeros(2, 2, 1, 8)}}
    monitor.on_train_batch_end(trainer, module, outputs, {}, 0)
    assert asked == []  # neither measured, logged nor, without ``stop``, asked
    stopping = CollapseMonitor(every_n_steps=1, stop=True)
    trainer.strategy.broadcast = lambda found: True  # what the first process has found
    stopping.on_train_batch_end(trainer, module, outputs, {}, 0)
    assert trainer.should_stop


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"CollapseMonitor\.every_n_steps: found 0, expected at least 1"):
        CollapseMonitor(every_n_steps=0)
    with pytest.raises(ValueError, match=r"CollapseMonitor\.smallest_std: found 0, expected above 0"):
        CollapseMonitor(smallest_std=0)
    with pytest.raises(ValueError, match="found BoringModel, expected a world model of jepakit"):
        CollapseMonitor().setup(None, BoringModel(), "fit")
