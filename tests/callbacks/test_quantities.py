"""Probes for quantities on latents of which it is known what they hold."""

import numpy as np
import pytest
import torch
from oracle import Oracle, prepared
from PIL import Image

from jepakit.callbacks import LinearProbe, MLPProbe
from jepakit.callbacks.frames import draw_frames, quantities
from jepakit.callbacks.quantities import random_model
from jepakit.datamodules import Collisions
from jepakit.datamodules.extracted import store_features
from jepakit.zoo import CJEPAModel, LeWMModel

SEEN = {"image_size": 16, "frame_skip": 5, "history": 2}


class Blind(Oracle):
    """Latents are noise."""

    name = "blind"

    def encode(self, observation):
        count = observation["pixels"].shape[0]
        generator = torch.Generator().manual_seed(int(observation["proprio"].sum()))
        return torch.randn(count, 1, 1, 4, generator=generator)


@pytest.mark.parametrize(("probe", "least"), [(LinearProbe, 0.999), (MLPProbe, 0.9)])  # the MLP sees 150 frames only
def test_what_is_in_the_latents_is_found(data, tmp_path, probe, least):
    model = prepared(Oracle(), data)
    before = torch.random.get_rng_state()
    found = probe(train_frames=150, test_frames=40).measure(model, data, tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    for name in ("agent_x", "agent_y"):
        assert found[f"{name}/r2"] > least
        assert found[f"{name}/r"] > least
        assert found[f"{name}/mse"] < 1 - least
        assert found[f"{name}/r2_colour"] < 0.5
    picture = np.asarray(Image.open(tmp_path / f"{probe.name}.png").convert("RGB"))
    assert picture.std() > 10


def test_what_is_not_there_is_not_found(data, tmp_path):
    found = LinearProbe(train_frames=150, test_frames=40).measure(prepared(Blind(), data), data, tmp_path)
    assert found["agent_x/r2"] < 0.1


def test_the_mlp_reads_what_a_line_cannot():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2000, 1, 4)).astype(np.float32)
    y = np.abs(z[:, 0, :1]) - np.abs(z[:, 0, :1]).mean()
    left = {
        probe: np.square(probe().fit(z[:1500], y[:1500], ("size",))(z[1500:]) - y[1500:]).mean() / y.var()
        for probe in (LinearProbe, MLPProbe)
    }
    assert left[LinearProbe] > 0.9
    assert left[MLPProbe] < 0.05


def test_frames_are_of_their_part(data):
    train, test = (draw_frames(data, part, count=10_000) for part in ("train", "test"))
    rows = {part: sum(data.source.lengths[episode] for episode in data.parts[part]) for part in ("train", "test")}
    assert (len(train.values), len(test.values)) == (rows["train"], rows["test"])
    assert not {tuple(row) for row in train.values} & {tuple(row) for row in test.values}
    assert len(draw_frames(data, "train", count=7).columns["pixels"]) == 7


def test_angles_become_sine_and_cosine():
    state = np.array([[1.0, 0.5], [2.0, 3.0]])
    values, names = quantities(state, ("x", "turn"), frozenset({"turn"}))
    assert names == ("x", "turn_sin", "turn_cos")
    np.testing.assert_allclose(values, np.stack([[1, 2], np.sin([0.5, 3]), np.cos([0.5, 3])], axis=1), rtol=1e-6)


def test_slots_are_read_whatever_their_order(data):
    class Slots(Oracle):
        name = "slots"
        follows_objects = True
        order = (0, 1, 2)

        def encode(self, observation):
            place = observation["proprio"]
            return torch.stack([place, -place, 2 * place], dim=2)[:, :, list(self.order)]

    frames = draw_frames(data, "train", count=20)
    first, second = prepared(Slots(), data), prepared(Slots(), data)
    second.order = (2, 0, 1)
    np.testing.assert_allclose(frames.latents(first), frames.latents(second), rtol=1e-5)
    assert frames.latents(first).shape == (20, 1, 6)


@pytest.mark.parametrize("probe", [LinearProbe, MLPProbe])
def test_slots_extracted_elsewhere_have_no_encoder_to_compare_with(scenes, tmp_path, probe):
    states = {f"{e}": scenes.source.read("state", rows_of(scenes, e)) for e in range(len(scenes.source.lengths))}
    places = {name: state.reshape(len(state), 6, 12)[:, :, 6:8] for name, state in states.items()}
    np.savez(tmp_path / "slots.npz", **places)
    slots = store_features(tmp_path / "slots.npz", scenes.source, tmp_path / "slots")
    data = Collisions(str(scenes.source.path), features=str(slots), **SEEN)
    data.setup("fit")
    model = prepared(CJEPAModel({**SEEN, "encoder": "features", "slots": 6, "slot_dim": 2}), data)
    found = probe(train_frames=150, test_frames=40).measure(model, data, tmp_path)
    kinds = {name.partition("/")[2] for name in found}
    assert kinds == {"mse", "r", "r2", "r2_colour"}
    assert (tmp_path / f"{probe.name}.png").is_file()


def rows_of(data, episode):
    return data.source.offsets[episode] + np.arange(data.source.lengths[episode])


def test_the_random_floor_has_other_weights_and_the_same_statistics(data):
    model = LeWMModel({"image_size": 32, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8})
    model.set_statistics(data.statistics)
    floor = random_model(model)
    assert torch.equal(floor.action_std, model.action_std)
    weights, others = model.state_dict(), floor.state_dict()
    assert not torch.equal(weights["encoder.layers.0.weight"], others["encoder.layers.0.weight"])


def test_data_without_state_give_what_they_have(data, monkeypatch):
    monkeypatch.delitem(data.source.columns, "state")
    felt = draw_frames(data, "val", count=5)
    assert felt.names == ("proprio_0", "proprio_1")
    np.testing.assert_array_equal(felt.values, felt.columns["proprio"])
    monkeypatch.delitem(data.source.columns, "proprio")
    bare = draw_frames(data, "val", count=1000)
    assert bare.names == ("row",)
    lengths = data.source.lengths[data.parts["val"]]
    np.testing.assert_array_equal(bare.values[:, 0], np.concatenate([np.arange(length) for length in lengths]))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"MLPProbe.test_frames: found 1, expected at least 2"):
        MLPProbe(test_frames=1)
    with pytest.raises(ValueError, match=r"MLPProbe.steps: found 1, expected at least 2"):
        MLPProbe(steps=1)


def test_what_is_folded_takes_more_steps_to_read():
    latents = np.random.default_rng(0).standard_normal((2000, 1, 2)).astype(np.float32)
    values = np.sin(4 * latents[:, 0, :1]) * np.sign(latents[:, 0, 1:])
    short, long = (
        float(np.square(MLPProbe(steps=steps).fit(latents, values, ("x",))(latents) - values).mean())
        for steps in (100, 1200)
    )
    assert long < 0.2 * short
