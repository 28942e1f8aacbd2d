"""The estimate: proportional, silent about itself, loud about long runs, harmless to the run."""

from dataclasses import replace

import lightning as L
import pytest
import torch

from jepakit.callbacks import RunEstimate
from jepakit.callbacks.run_estimate import readable, seconds_per_step
from jepakit.zoo import LeWM, LeWMConfig, LeWMModel

CONFIG = LeWMConfig(
    image_size=16,
    encoder="cnn",
    cnn_channels=(4, 8),
    latent_dim=8,
    projector_hidden=8,
    action_hidden=8,
    predictor_width=8,
    predictor_depth=1,
    predictor_heads=1,
    predictor_head_dim=8,
    predictor_mlp=8,
    directions=8,
)


def batch(windows, size=16):
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(0, 256, (windows, 4, size, size, 3), dtype=torch.uint8, generator=generator),
        "action": torch.randn(windows, 4, 10, generator=generator),
    }


def fit(callbacks, config=CONFIG):
    torch.manual_seed(0)
    module = LeWM(config)
    trainer = L.Trainer(
        max_steps=3, callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([batch(8, config.image_size)] * 4, batch_size=None)
    trainer.fit(module, loader, loader)
    return module


def test_the_run_is_not_disturbed():
    plain, watched = fit([]), fit([RunEstimate()])
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(watched.state_dict()[name], value, rtol=0, atol=0)


def test_few_windows_are_extrapolated_in_proportion(monkeypatch):
    monkeypatch.setattr("jepakit.callbacks.run_estimate._timed", lambda model, batch, windows: 0.5 * windows)
    assert seconds_per_step(LeWMModel(CONFIG), batch(64)) == 32.0
    monkeypatch.setattr("jepakit.callbacks.run_estimate._timed", lambda model, batch, windows: 0.001 * windows)
    assert seconds_per_step(LeWMModel(CONFIG), batch(64)) == pytest.approx(0.064)


@pytest.mark.parametrize(
    ("per_window", "config", "said"),
    [
        (0.001, CONFIG, "seconds on this machine"),
        (2000.0, CONFIG, "--trainer.max_steps"),
        (2000.0, replace(CONFIG, image_size=80), "-c configs/size/nano.yaml"),
    ],
)
def test_a_long_run_is_announced_with_a_way_out(monkeypatch, capsys, per_window, config, said):
    monkeypatch.setattr("jepakit.callbacks.run_estimate._timed", lambda model, batch, windows: per_window * windows)
    estimate = RunEstimate()
    fit([estimate], config)
    printed = " ".join(capsys.readouterr().err.split())
    assert said in printed
    assert estimate.estimate.steps == 3
    assert estimate.estimate.seconds == pytest.approx(3 * 8 * per_window)


def test_durations_are_readable():
    assert [readable(s) for s in (40, 750, 12600, 4_000_000)] == ["40 seconds", "12 minutes", "3.5 hours", "46 days"]
