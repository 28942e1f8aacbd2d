"""The decoder probe looks and does not touch."""

import av
import lightning as L
import numpy as np
import pytest
import torch
from oracle import Oracle, ProprioConfig, prepared
from PIL import Image

from jepakit.callbacks import DecoderProbe
from jepakit.callbacks.decoder import draw_strip, fit_decoder, picture_rows, write_video
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


class Seeing(Oracle):
    """Latents are the agent's place, of the size that decoders expect; what it imagines goes nowhere."""

    def encode(self, observation):
        return (observation["proprio"].unsqueeze(2) - self.proprio_mean) / self.proprio_std

    def rollout(self, latents, past_actions, candidates):
        return latents[:, None, -1:].expand(-1, 1, candidates.shape[2], -1, -1)


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
    for callbacks in ([], [DecoderProbe(every_n_epochs=1, windows=2, blocks=2, steps=3)]):
        module = make_lewm() if family == "lewm" else make_dinowm(tmp_path)
        torch.manual_seed(5)
        trainer(tmp_path, *callbacks).fit(module, data)
        states.append(module.state_dict())
        randoms.append(torch.random.get_rng_state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert torch.equal(*randoms)
    assert (tmp_path / "probes" / "decoder.png").exists()


def test_the_decoder_learns():
    """Plain frames, each of another grey, which is their latent."""
    greys = torch.linspace(0, 1, 64)
    latents = (4 * greys - 2).reshape(-1, 1, 1).expand(-1, 1, 8)
    pixels = (255 * greys).round().byte().reshape(-1, 1, 1, 1).expand(-1, 16, 16, 3)
    decoder = fit_decoder(latents, pixels, steps=40)
    with torch.no_grad():
        error = (decoder(latents) - pixels.permute(0, 3, 1, 2) / 255).square().mean()
        mean_frame = (decoder.background - pixels.permute(0, 3, 1, 2) / 255).square().mean()
    assert error < 0.5 * mean_frame


def test_it_draws_films_and_measures(data, tmp_path):
    data.setup("fit")
    model = prepared(Seeing(ProprioConfig(image_size=32, frame_skip=2, history=2)), data)
    found = DecoderProbe(windows=2, blocks=3, steps=2).run(model, data, tmp_path, step=0)
    assert set(found) == {"reconstructed/mse", "imagined/mse", "mean_frame/mse"}
    assert found["reconstructed/mse"] == pytest.approx(found["mean_frame/mse"], rel=0.3)  # hardly trained
    sheet = np.asarray(Image.open(tmp_path / "decoder.png"))
    cell = 96 + 2  # scaled from 32 to 96 pixels
    assert sheet.shape == (2 * (3 * cell + 12), 96 + 4 * cell + 12, 3)
    assert (tmp_path / "decoder.mp4").stat().st_size > 0


def test_rows_are_the_frames_the_latents_and_the_imagination(data):
    data.setup()
    batch = next(iter(data.val_dataloader()))
    model = make_lewm().model.eval()
    windows = {name: value[:2] for name, value in batch.items()}
    decoder = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(8, 3 * 32 * 32), torch.nn.Unflatten(1, (3, 32, 32))
    )
    rows = picture_rows(model, decoder, windows)
    assert np.array_equal(rows["real"], windows["pixels"].numpy())
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
    assert (np.argwhere(red).min(axis=0) == ((2 * 98 + 12) + 98, 96 + 2 * 98)).all()


def test_the_video_shows_the_frames_in_time(tmp_path):
    rows = {name: np.zeros((2, 5, 49, 49, 3), np.uint8) for name in ("real", "imagined")}
    rows["imagined"][1] += np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    write_video(rows, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert film.streams.video[0].average_rate == 4
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    assert frames.shape == (5, 2 * 100 + 12, 96 + 2 * (100 + 12), 3)
    shown = frames[:, 100:198, 96 + 100 + 12 : 96 + 100 + 12 + 98].mean(axis=(1, 2, 3))
    assert shown == pytest.approx(np.arange(0, 250, 50), abs=4)
    assert frames[:, :98, 96:194].max() <= 4


def test_slots_are_refused_before_training(data, tmp_path, monkeypatch):
    module = make_lewm()
    monkeypatch.setattr(type(module.model), "follows_objects", True)
    with pytest.raises(ValueError, match=r"DecoderProbe: found LeWMModel, expected .* one vector or a grid of patches"):
        trainer(tmp_path, DecoderProbe()).fit(module, data)


@pytest.mark.parametrize("name", ["windows", "blocks", "train_frames", "steps"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"DecoderProbe.{name}: found 0, expected at least 1"):
        DecoderProbe(**{name: 0})
