"""C-JEPA through Lightning, on Collisions: its phases, its three object encoders and what it refuses."""

import lightning as L
import numpy as np
import pytest
import torch

from jepakit.datamodules import Collisions, Generate, TwoRoom
from jepakit.datamodules.extracted import store_features
from jepakit.zoo import CJEPA, LeWM, from_pretrained

pytestmark = [pytest.mark.filterwarnings("ignore:The number of training batches")]

OBJECTS = [[12 * slot + field for field in (1, 4, 6, 7, 8, 9, 10, 11)] for slot in range(6)]
SIZES = {
    **{"image_size": 16, "frame_skip": 2, "action_dim": 2, "history": 3, "slots": 6, "slot_dim": 16},
    **{"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 8, "predictor_mlp": 32, "dropout": 0.0},
}
ATTENTION = {"encoder": "slot_attention", "slot_channels": 8, "slot_hidden": 16, "encoder_steps": 3}
ORACLE = {"encoder": "oracle", "oracle_objects": OBJECTS, "oracle_angles": [12 * slot + 8 for slot in range(6)]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def data(root):
    return make_data(root)


def make_data(root, module=Collisions, **changes):
    generate = Generate(root=str(root), episodes=6, steps=30, workers=1)
    return module(generate=generate, image_size=16, history=3, frame_skip=2, batch_size=8, **changes)


def make(**changes):
    torch.manual_seed(0)
    return CJEPA(config={**SIZES, **changes}, optimizer={"lr": 5e-3})


def trainer(folder, *callbacks, **changes):
    settings = {"max_steps": 6, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **quiet, **changes})


class Recorder(L.Callback):
    """Weights after every step, and what the step returned."""

    def __init__(self):
        self.weights, self.outputs, self.rates = [], [], []

    def on_train_start(self, trainer, module):
        self.weights.append({name: p.detach().clone() for name, p in module.model.named_parameters()})

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.weights.append({name: p.detach().clone() for name, p in module.model.named_parameters()})
        self.outputs.append(outputs)

    def changed(self, first, last):
        """Parameters that differ between two steps, by their first name."""
        before, after = self.weights[first], self.weights[last]
        return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_the_encoder_is_trained_first_and_frozen_then(data, tmp_path):
    module, recorder = make(**ATTENTION), Recorder()
    fit = trainer(tmp_path, recorder)
    fit.fit(module, data)
    assert recorder.changed(0, 3) == {"objects"}
    assert recorder.changed(3, 6) == {"predictor", "action_encoder"}
    assert module.model.objects.trained
    assert recorder.rates[:3] == pytest.approx(recorder.rates[3:])
    assert {"train/reconstruction", "train/hidden", "train/future"} <= fit.callback_metrics.keys()
    assert {"train/encoder_loss", "train/loss"} <= fit.logged_metrics.keys()
    assert [set(outputs["outputs"]) for outputs in recorder.outputs[2:4]] == [
        {"latents", "reconstruction", "masks"},
        {"latents", "predictions"},
    ]


def test_the_encoders_schedule_counts_steps_and_masks_are_drawn_for_every_batch(data, tmp_path, monkeypatch):
    module, found = make(**ATTENTION), []
    losses = module.model.losses
    monkeypatch.setattr(module.model, "losses", lambda batch, step: found.append(step) or losses(batch, step))
    trainer(tmp_path, max_steps=5, accumulate_grad_batches=2, limit_val_batches=0).fit(module, data)
    assert found == [0, 0, 1, 1, 2, 2, 6, 7, 8, 9]


def test_a_frozen_encoder_is_deterministic_in_training_too(data, tmp_path):
    module = make(**ATTENTION)
    trainer(tmp_path).fit(module, data)
    batch = next(iter(data.val_dataloader()))
    trained = module.train().losses(batch).outputs["latents"]
    assert module.model.objects.slots.training
    assert torch.equal(trained, module.eval().encode(batch))


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_is_in_the_phase_it_was_in(root, tmp_path, stop):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.global_step == stop:
                trainer.save_checkpoint(tmp_path / "some.ckpt")

    trainer(tmp_path, Save()).fit(make(**ATTENTION), make_data(root))
    resumed, recorder = make(**ATTENTION), Recorder()
    trainer(tmp_path, recorder).fit(resumed, make_data(root), ckpt_path=tmp_path / "some.ckpt")
    left = max(0, 3 - stop)
    assert recorder.changed(0, left) == ({"objects"} if left else set())
    assert recorder.changed(left, 6 - stop) == {"predictor", "action_encoder"}


def test_a_trained_encoder_can_be_taken_from_a_folder(root, tmp_path):
    first = make(**ATTENTION)
    trainer(tmp_path).fit(first, make_data(root))
    folder = first.save_pretrained(tmp_path / "trained")
    recorder = Recorder()
    config = {**SIZES, **ATTENTION, "history": 2}
    second = CJEPA(config=config, encoder_weights=str(folder))
    assert second.model.config.pretrain_steps == 0
    data = make_data(root, predictions=1)
    data.window = type(data.window)(history=2, predictions=1, frame_skip=2)
    trainer(tmp_path, recorder, max_steps=2).fit(second, data)
    assert recorder.changed(0, 2) == {"predictor", "action_encoder"}
    expected = first.model.objects.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.objects.state_dict().items())
    batch = next(iter(data.val_dataloader()))
    reloaded = from_pretrained(second.save_pretrained(tmp_path / "second"))
    assert torch.equal(reloaded.encode(batch), second.eval().encode(batch))


def test_an_encoder_with_other_settings_than_it_was_trained_with_is_refused(data, tmp_path):
    """Its tensors would fit, and its slots would be others."""
    trained = make(**ATTENTION, slots_seen=True, slot_iterations=2)
    trained.model.objects.trained.fill_(True)
    folder = trained.save_pretrained(tmp_path / "trained")
    module = CJEPA(config={**SIZES, **ATTENTION}, encoder_weights=str(folder))
    message = r"model config with slot_iterations 3, slots_seen False; set slot_iterations: 2, slots_seen: True"
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(module, data)


def test_encoders_that_never_were_trained_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="encoder_steps: found 0 without encoder_weights"):
        trainer(tmp_path).fit(make(**{**ATTENTION, "encoder_steps": 0}), data)
    fresh = make(**ATTENTION).save_pretrained(tmp_path / "fresh")
    small = {"image_size": 16, "encoder": "cnn", "cnn_channels": [4, 4], "latent_dim": 8}
    lewm = LeWM(config=small).save_pretrained(tmp_path / "lewm")
    for folder in (fresh, lewm):
        module = CJEPA(config={**SIZES, **ATTENTION}, encoder_weights=str(folder))
        with pytest.raises(ValueError, match="without a trained object encoder 'slot_attention'"):
            trainer(tmp_path).fit(module, data)
    with pytest.raises(ValueError, match="encoder_weights: found 'runs/x' for the object encoder 'oracle'"):
        CJEPA(config={**SIZES, **ORACLE}, encoder_weights="runs/x")


def test_the_oracle_learns_and_knows_the_training_episodes_scale(data, tmp_path):
    module, recorder = make(**ORACLE), Recorder()
    fit = trainer(tmp_path, recorder, max_steps=60)
    fit.fit(module, data)
    losses = [float(outputs["loss"]) for outputs in recorder.outputs]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    rows = np.concatenate([data.source.offsets[e] + np.arange(30) for e in data.parts["train"]])
    objects = data.source.read("state", rows).reshape(-1, 12)
    (kind,) = module.model.objects.slots.kinds
    expected = objects[objects[:, 0] > 0][:, [1, 4, 6, 7, 9, 10, 11]].mean(axis=0)
    np.testing.assert_allclose(kind.mean, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def slots(data, tmp_path):
    data.prepare_data()
    data.setup()
    rng = np.random.default_rng(0)
    arrays = {f"{e}": rng.normal(size=(length, 6, 16)) for e, length in enumerate(data.source.lengths)}
    np.savez(tmp_path / "slots.npz", **arrays)
    return str(store_features(tmp_path / "slots.npz", data.source, tmp_path / "slots"))


def test_slots_extracted_elsewhere_train_without_frames(root, slots, tmp_path):
    recorder = Recorder()
    data = make_data(root, features=slots)
    trainer(tmp_path, recorder, max_steps=2).fit(make(encoder="features"), data)
    batch = next(iter(data.train_dataloader()))
    assert "pixels" not in batch
    assert recorder.outputs[0]["outputs"]["latents"].shape == (8, 4, 6, 16)


def test_data_without_what_the_encoder_reads_are_refused_before_training(root, slots, tmp_path):
    module = make(encoder="features")
    with pytest.raises(ValueError, match=r"column 'features' not found, .* set features of the data"):
        trainer(tmp_path).fit(module, make_data(root))
    with pytest.raises(ValueError, match=r"found 'features' of \(6, 16\) per frame, expected \(5, 16\)"):
        trainer(tmp_path).fit(make(encoder="features", slots=5), make_data(root, features=slots))
    with pytest.raises(ValueError, match=r"found 'state' of \(2,\) per frame, oracle_objects names columns up to 71"):
        trainer(tmp_path).fit(make(**ORACLE), make_data(root, TwoRoom))
    with pytest.raises(ValueError, match="predictions: the data have 1, the model expects 4"):
        trainer(tmp_path).fit(make(**ORACLE, future=4), make_data(root))
