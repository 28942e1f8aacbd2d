"""The decoder probe looks and does not touch."""

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from jepakit.callbacks import DecoderProbe
from jepakit.callbacks.decoder import draw_strip, picture_rows
from jepakit.datamodules import TwoRoom
from jepakit.zoo import DINOWM, LeWM

torch.set_num_threads(1)

COMMON = {"image_size": 32, "frame_skip": 2, "action_dim": 2, "history": 2, "encoder": "cnn", "cnn_channels": (4, 6)}
PREDICTOR = {"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16, "dropout": 0.2}
SMALL = {
    **{"projector_hidden": 12, "action_hidden": 12, "latent_dim": 8, "predictor_width": 8, "directions": 16},
    **PREDICTOR,
}


def make_lewm():
    torch.manual_seed(0)
    return LeWM({**COMMON, **SMALL}, {"lr": 3e-3})


def make_dinowm(folder):
    weights = make_lewm().save_pretrained(folder / "lewm")
    torch.manual_seed(0)
    return DINOWM({**COMMON, **PREDICTOR, "encoder_size": 32}, {"lr": 3e-3}, encoder_weights=str(weights))


@pytest.fixture
def data(tworoom_store):
    return TwoRoom(str(tworoom_store), image_size=32, history=2, frame_skip=2, batch_size=16)


def trainer(folder, *callbacks, **changes):
    settings = {"max_steps": 6, "limit_val_batches": 2, "accelerator": "cpu", "logger": False}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **quiet, **changes})


@pytest.mark.parametrize("family", ["lewm", "dinowm"])
def test_the_model_is_bit_for_bit_the_same_without_it(family, data, tmp_path):
    states, randoms = [], []
    for callbacks in ([], [DecoderProbe(every_n_epochs=1, windows=2, frames=6)]):
        module = make_lewm() if family == "lewm" else make_dinowm(tmp_path)
        torch.manual_seed(5)
        trainer(tmp_path, *callbacks).fit(module, data)
        states.append(module.state_dict())
        randoms.append(torch.random.get_rng_state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert torch.equal(*randoms)
    assert (tmp_path / "pictures" / "decoder.png").exists()


class Losses(L.Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.found.append(trainer.callback_metrics["train/decoder"].item())


def test_the_decoder_learns_and_draws(tmp_path):
    """Plain frames, each of another grey."""
    generator = torch.Generator().manual_seed(0)
    greys = torch.randint(0, 256, (64, 3, 1, 1, 1), generator=generator).expand(-1, -1, 32, 32, 3).byte()
    actions = torch.zeros(64, 3, 4)
    windows = [{"pixels": greys[index], "action": actions[index]} for index in range(64)]
    loader = torch.utils.data.DataLoader(windows, batch_size=16)
    losses, probe = Losses(), DecoderProbe(every_n_epochs=0, windows=3, frames=24, lr=3e-3)
    trainer(tmp_path, probe, losses, max_steps=50).fit(make_lewm(), loader, loader)
    assert losses.found[0] > 0.02  # it starts from the mean picture
    assert np.mean(losses.found[-5:]) < 0.3 * losses.found[0]
    sheet = np.asarray(Image.open(tmp_path / "pictures" / "decoder.png"))
    frames = 3 * 3 * 96  # windows × frames, scaled from 32 to 96 pixels
    assert sheet.shape == (3 * 98, 96 + frames + 3 * 12, 3)


def test_rows_are_the_frames_the_latents_and_the_imagination(data, tmp_path):
    data.setup()
    batch = next(iter(data.val_dataloader()))
    model = make_lewm().model
    windows = {name: value[:2] for name, value in batch.items()}
    decoder = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(8, 3 * 32 * 32), torch.nn.Unflatten(1, (3, 32, 32))
    )
    rows = picture_rows(model.train(), decoder, windows)
    assert model.training
    assert np.array_equal(rows["real"], windows["pixels"].numpy())
    model.eval()
    with torch.no_grad():
        z = model.encode(windows)
        step = model.predict(z[:, :1], windows["action"][:, :1])
        expected = (decoder(step.flatten(0, 1)).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(rows["imagined"][:, 1].astype(int) - expected).max() <= 1
    assert np.array_equal(rows["imagined"][:, 0], rows["reconstructed"][:, 0])


def test_the_strip_shows_the_frames_in_place(tmp_path):
    rows = {name: np.zeros((2, 3, 48, 48, 3), np.uint8) for name in ("real", "imagined")}
    rows["imagined"][1, 2, :, :, 0] = 200
    draw_strip(rows, tmp_path / "strip.png")
    sheet = np.asarray(Image.open(tmp_path / "strip.png"))
    red = (sheet == (200, 0, 0)).all(axis=-1)
    assert red.sum() == 96 * 96
    assert (np.argwhere(red).min(axis=0) == (98, 96 + (3 * 96 + 12) + 2 * 96)).all()


def test_the_decoder_resumes_from_a_checkpoint(data, tmp_path):
    first = DecoderProbe(every_n_epochs=0, frames=6)
    fit = trainer(tmp_path, first, max_steps=3)
    fit.fit(make_lewm(), data)
    fit.save_checkpoint(tmp_path / "half.ckpt")
    second = DecoderProbe(every_n_epochs=0, frames=6)
    resumed = trainer(tmp_path, second, max_steps=4)
    resumed.fit(make_lewm(), data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    steps = {int(state["step"]) for state in second.state_dict()["optimizer"]["state"].values()}
    assert steps == {4}


def test_slots_are_refused_before_training(data, tmp_path, monkeypatch):
    module = make_lewm()
    monkeypatch.setattr(type(module.model), "follows_objects", True)
    with pytest.raises(ValueError, match=r"DecoderProbe: found LeWM, expected .* one vector or a grid of patches"):
        trainer(tmp_path, DecoderProbe()).fit(module, data)


@pytest.mark.parametrize("name", ["windows", "frames"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"DecoderProbe.{name}: found 0, expected at least 1"):
        DecoderProbe(**{name: 0})
