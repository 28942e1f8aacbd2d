import math
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from jepakit.zoo import LeWM, LeWMConfig, LeWMModel, OptimizerConfig, WorldModelModule, from_pretrained
from jepakit.zoo.module import warmup_cosine

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class Windows(L.LightningDataModule):
    """Random windows that fit the small config, with what the module reads of a DataModule."""

    def __init__(self, make_batch, statistics, **spec):
        super().__init__()
        windows = make_batch(24)
        self.windows = [{name: value[i] for name, value in windows.items()} for i in range(24)]
        self.statistics = statistics
        expected = {"image_size": 16, "frame_skip": 2, "action_dim": 3, "history": 3, "predictions": 1}
        self.spec = SimpleNamespace(**{**expected, **spec})

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.windows, batch_size=8)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.windows, batch_size=8)


@pytest.fixture
def data(batches, statistics):
    return Windows(batches, statistics)


@pytest.fixture
def module(small):
    torch.manual_seed(0)
    return LeWM(config={**small, "encoder": "cnn"}, optimizer={"lr": 1e-2})


def trainer(folder, callbacks=(), **changes):
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **quiet, **changes})


class Recorder(L.Callback):
    def __init__(self):
        self.rates, self.outputs, self.losses = [], [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.outputs.append(outputs["outputs"])
        self.losses.append(outputs["loss"].item())


def test_fit_lowers_the_loss_and_names_every_term(module, data, tmp_path):
    recorder = Recorder()
    fit = trainer(tmp_path, [recorder], max_epochs=8)
    fit.fit(module, data)
    assert sum(recorder.losses[-3:]) < 0.7 * sum(recorder.losses[:3])
    names = {f"{stage}/{term}" for stage in ("train", "val") for term in ("loss", "prediction", "sigreg")}
    assert names <= fit.callback_metrics.keys()
    total = fit.callback_metrics["val/prediction"] + 0.09 * fit.callback_metrics["val/sigreg"]
    torch.testing.assert_close(fit.callback_metrics["val/loss"], total)


def test_callbacks_get_detached_latents_and_predictions(module, data, tmp_path):
    recorder = Recorder()
    trainer(tmp_path, [recorder], max_steps=1).fit(module, data)
    (outputs,) = recorder.outputs
    assert outputs["latents"].shape == (8, 4, 1, 8)
    assert outputs["predictions"].shape == (8, 3, 1, 8)
    assert not any(value.requires_grad for value in outputs.values())


def test_fit_adopts_the_datas_statistics(module, data, statistics, tmp_path):
    trainer(tmp_path, max_steps=1).fit(module, data)
    assert module.model.action_mean.tolist() == statistics.action_mean.tolist()
    assert module.model.action_high.tolist() == statistics.action_high.tolist()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"image_size": 64}, "image_size: the data have 64, the model expects 16"),
        ({"frame_skip": 5, "history": 1}, r"frame_skip: the data have 5, .*; history: the data have 1"),
        ({"predictions": 2}, "predictions: the data have 2, the model expects 1"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_training(module, batches, statistics, tmp_path, spec, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(module, Windows(batches, statistics, **spec))


def test_plain_loaders_train_too(module, data, tmp_path):
    trainer(tmp_path, max_steps=1).fit(module, data.train_dataloader(), data.val_dataloader())
    assert module.model.action_std.tolist() == [1.0] * 6


def test_test_and_predict_use_the_models_outputs(module, data, batch, tmp_path):
    tested = trainer(tmp_path)
    tested.test(module, data.train_dataloader(), verbose=False)
    assert {"test/loss", "test/prediction", "test/sigreg"} <= tested.callback_metrics.keys()
    numbered = [{**window, "episode": i, "start": 2 * i} for i, window in enumerate(data.windows)]
    (found,) = trainer(tmp_path).predict(module, torch.utils.data.DataLoader(numbered, batch_size=24))
    assert torch.equal(found["latents"], module.eval().encode({"pixels": torch.stack([w["pixels"] for w in numbered])}))
    assert found["start"].tolist() == [2 * i for i in range(24)]


def test_warm_up_then_cosine_to_zero():
    factors = [warmup_cosine(step, steps=200, warmup_fraction=0.05) for step in range(200)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[105] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert 0 < factors[-1] < 1e-3
    assert warmup_cosine(0, steps=1, warmup_fraction=0.01) == 1.0


def test_the_schedule_runs_per_step_over_the_whole_run(small, data, tmp_path):
    module = LeWM(config={**small, "encoder": "cnn"}, optimizer=OptimizerConfig(lr=2e-3, warmup_fraction=0.34))
    recorder = Recorder()
    trainer(tmp_path, [recorder]).fit(module, data)
    expected = [1 / 3, 2 / 3, 1, *(0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3))]
    assert recorder.rates == pytest.approx([2e-3 * factor for factor in expected])


@dataclass(frozen=True, kw_only=True)
class TwoPhaseConfig(LeWMConfig):
    pretrain_steps: int = 2


class TwoPhaseModel(LeWMModel):
    def __init__(self, config):
        super().__init__(config)
        self.done = []

    @property
    def encoder_alone(self):
        return len(self.done) < self.config.pretrain_steps

    def step_done(self, step):
        self.done.append(step)


@pytest.fixture
def two_phases(small):
    config = TwoPhaseConfig(**{**small, "encoder": "cnn", "cnn_channels": (4, 6)})
    return WorldModelModule(TwoPhaseModel(config), OptimizerConfig(lr=2e-3, warmup_fraction=0.25))


def test_two_phases_have_a_schedule_each_and_steps_are_counted_once(two_phases, data, tmp_path):
    recorder = Recorder()
    trainer(tmp_path, [recorder]).fit(two_phases, data)
    expected = [1, 1, 1, *(0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3))]
    assert recorder.rates == pytest.approx([2e-3 * factor for factor in expected])
    assert two_phases.model.done == [1, 2, 3, 4, 5, 6]


def test_accumulated_batches_are_one_step(two_phases, data, tmp_path):
    trainer(tmp_path, accumulate_grad_batches=3, max_epochs=3).fit(two_phases, data)
    assert two_phases.model.done == [1, 2, 3]


@pytest.mark.parametrize(("accumulated", "draws"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 1, 2, 4, 5, 6])])
def test_every_batch_of_a_step_draws_anew(module, data, tmp_path, monkeypatch, accumulated, draws):
    found, losses = [], module.model.losses
    monkeypatch.setattr(module.model, "losses", lambda batch, step: found.append(step) or losses(batch, step))
    trainer(tmp_path, accumulate_grad_batches=accumulated, limit_val_batches=0).fit(module, data)
    assert found == draws


def test_the_first_phase_must_leave_steps_for_the_second(two_phases, data, tmp_path):
    with pytest.raises(ValueError, match="found 2 steps in all, 2 of them for the encoder alone"):
        trainer(tmp_path, max_steps=2).fit(two_phases, data)


def test_training_without_an_end_is_refused(module, data, tmp_path):
    with pytest.raises(ValueError, match="expected max_epochs or max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(module, data)


@pytest.mark.parametrize("weights_only", [True, None])
def test_lightning_checkpoints_reload(module, data, batch, tmp_path, weights_only):
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(module, data)
    fit.save_checkpoint(tmp_path / "last.ckpt")
    loaded = LeWM.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=weights_only).eval()
    assert loaded.model.config == module.model.config
    assert loaded.optimizer_config == module.optimizer_config
    assert torch.equal(loaded.encode(batch), module.eval().encode(batch))


def test_resuming_equals_never_stopping(small, data, tmp_path):
    def fresh():
        torch.manual_seed(0)
        return LeWM(config={**small, "encoder": "cnn", "dropout": 0.3}, optimizer={"lr": 1e-2})

    whole = fresh()
    trainer(tmp_path).fit(whole, data)
    stopped = trainer(tmp_path, callbacks=[StopAfter(1)])
    stopped.fit(fresh(), data)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fresh()
    trainer(tmp_path).fit(resumed, data, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_resumed_training_has_the_settings_given_now(small, data, tmp_path):
    first = LeWM(config={**small, "encoder": "cnn"}, optimizer={"lr": 1e-2, "warmup_fraction": 0.0})
    stopped = trainer(tmp_path, callbacks=[StopAfter(1)])
    stopped.fit(first, data)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    other = {"lr": 2e-3, "weight_decay": 0.3, "warmup_fraction": 0.0}
    resumed = LeWM(config={**small, "encoder": "cnn", "lambda_": 0.5}, optimizer=other)
    recorder = Recorder()
    second = trainer(tmp_path, [recorder])
    with pytest.warns(UserWarning, match=r"config\.lambda_ 0\.09 is now 0\.5; optimizer\.lr 0\.01 is now 0\.002"):
        second.fit(resumed, data, ckpt_path=tmp_path / "half.ckpt")
    steps = stopped.global_step
    total = second.global_step
    expected = [0.5 * (1 + math.cos(math.pi * step / total)) for step in range(steps, total)]
    assert recorder.rates == pytest.approx([2e-3 * factor for factor in expected])
    assert second.optimizers[0].param_groups[0]["weight_decay"] == 0.3


class StopAfter(L.Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_a_pretrained_model_trains_in_train_mode(module, data, tmp_path):
    loaded = from_pretrained(module.save_pretrained(tmp_path / "model"))
    assert not loaded.training
    trainer(tmp_path, max_steps=2).fit(loaded, data)
    assert loaded.model.projector.norm.num_batches_tracked == 2


YAML = """
model:
  class_path: jepakit.zoo.LeWM
  init_args:
    config: {image_size: 16, frame_skip: 2, action_dim: 3, encoder: cnn, cnn_channels: [4, 6], latent_dim: 8}
    optimizer: {lr: 1.0e-3}
trainer: {max_steps: 1, logger: false, enable_checkpointing: false, accelerator: cpu, barebones: true}
"""


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning"])

    def run(*overlays, args=()):
        files = []
        for index, text in enumerate((YAML, *overlays)):
            (tmp_path / f"{index}.yaml").write_text(text)
            files += ["--config", str(tmp_path / f"{index}.yaml")]
        return LightningCLI(
            L.LightningModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            save_config_callback=None,
            run=False,
            args=[*files, *args],
        )

    return run


def test_yaml_overlays_and_flags_merge_into_the_config(cli):
    overlay = "model: {init_args: {config: {latent_dim: 4, knots: 5}, optimizer: {betas: [0.8, 0.9]}}}"
    module = cli(overlay, args=["--model.init_args.config.knots=7"]).model
    assert isinstance(module, LeWM)
    expected = {"image_size": 16, "frame_skip": 2, "action_dim": 3, "encoder": "cnn", "cnn_channels": (4, 6)}
    assert module.model.config == LeWMConfig(**expected, latent_dim=4, knots=7)
    assert module.optimizer_config == OptimizerConfig(lr=1e-3, betas=(0.8, 0.9))


def test_one_flag_at_a_time_may_pass_through_sizes_that_do_not_fit(cli):
    flags = ["--model.init_args.config.encoder=vit", "--model.init_args.config.patch_size=8"]
    assert cli(args=flags).model.model.config.patch_size == 8


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("model: {init_args: {config: {latent_dimm: 4}}}", "Group 'config' does not accept option 'latent_dimm'"),
        ("model: {init_args: {config: {latent_dim: wide}}}", 'Parser key "config.latent_dim"'),
        ("model: {init_args: {optimizer: {rate: 1.0}}}", "Group 'optimizer' does not accept option 'rate'"),
    ],
)
def test_wrong_yaml_is_refused_by_key(cli, overlay, message, capsys):
    with pytest.raises(SystemExit):
        cli(overlay)
    assert message in capsys.readouterr().err


def test_what_the_cli_trained_reloads(cli, data, batch, tmp_path):
    built = cli(args=["--trainer.barebones=false", "--trainer.enable_progress_bar=false"])
    built.trainer.fit(built.model, data)
    built.trainer.save_checkpoint(tmp_path / "cli.ckpt")
    loaded = LeWM.load_from_checkpoint(tmp_path / "cli.ckpt", weights_only=True).eval()
    assert torch.equal(loaded.encode(batch), built.model.eval().encode(batch))
