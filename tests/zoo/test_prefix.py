"""Prediction of all horizons at once: what each may depend on, what is trained, how far it goes."""

import dataclasses

import pytest
import torch

from jepakit.zoo import LeWMConfig, LeWMModel, PLDMConfig, PLDMModel

torch.set_num_threads(1)

SMALL = {
    **{"image_size": 16, "frame_skip": 2, "action_dim": 3, "history": 1, "encoder": "cnn", "cnn_channels": (4, 6)},
    **{"latent_dim": 8, "projector_hidden": 20, "action_hidden": 14, "dropout": 0.0, "prefix": 3, "prefix_depth": 2},
    **{"predictor_width": 12, "predictor_depth": 2, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16},
}


@pytest.fixture(params=["lewm", "pldm"])
def model(request):
    torch.manual_seed(0)
    built = LeWMModel(LeWMConfig(**SMALL, directions=16)) if request.param == "lewm" else PLDMModel(PLDMConfig(**SMALL))
    for name, module in built.named_modules():
        if name.endswith("modulation"):
            torch.nn.init.normal_(module.weight, std=0.5)
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    return built.eval()


def problem(batch=2, samples=4, horizon=3):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 1, 1, 8, generator=generator)
    return z, torch.empty(batch, 0, 6), torch.randn(batch, samples, horizon, 6, generator=generator)


@torch.no_grad()
def test_a_prediction_depends_on_the_actions_up_to_it(model):
    z, past, candidates = problem()
    base = model.rollout(z, past, candidates)
    assert base.shape == (2, 4, 3, 1, 8)
    for step in range(3):
        changed = candidates.clone()
        changed[:, :, step] += 1.0
        found = model.rollout(z, past, changed)
        torch.testing.assert_close(found[:, :, :step], base[:, :, :step], atol=1e-6, rtol=1e-6)
        assert ((found - base)[:, :, step:].abs().amax(dim=(0, 1, 3, 4)) > 1e-3).all()
    assert (model.rollout(z + 1.0, past, candidates) - base).abs().amin(dim=(0, 1, 3)).max() > 1e-3


@torch.no_grad()
def test_shorter_plans_are_prefixes_of_longer_ones(model):
    z, past, candidates = problem()
    whole = model.rollout(z, past, candidates)
    for horizon in (1, 2):
        torch.testing.assert_close(model.rollout(z, past, candidates[:, :, :horizon]), whole[:, :, :horizon])
    one = model.predict(z, candidates[:, 0, :1])
    torch.testing.assert_close(one, whole[:, 0, :1])


@torch.no_grad()
def test_beyond_the_trained_horizon_it_goes_on_from_its_own_prediction(model):
    z, past, candidates = problem(horizon=7)
    whole = model.rollout(z, past, candidates)
    now = z
    for begin in (0, 3, 6):
        part = candidates[:, 2:3, begin : begin + 3]
        ahead = model.rollout(now, past, part)
        torch.testing.assert_close(whole[:, 2:3, begin : begin + 3], ahead, atol=1e-5, rtol=1e-5)
        now = ahead[:, 0, -1:]


@torch.no_grad()
def test_every_frame_is_predicted_from_every_earlier_one(model):
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(5, 4, 8, generator=generator)
    actions = torch.randn(5, 3, 6, generator=generator)
    embedded = model.embed_actions(actions)
    predicted, following = model.predict_window(z, embedded)
    expected = [(start, stop) for start in range(3) for stop in range(start + 1, 4)]
    assert predicted.shape == following.shape == (5, len(expected), 8)
    for index, (start, stop) in enumerate(expected):
        assert torch.equal(following[:, index], z[:, stop])
        ahead = model.rollout(z[:, start : start + 1, None], torch.empty(5, 0, 6), actions[:, None, start:stop])
        torch.testing.assert_close(predicted[:, index], ahead[:, 0, -1, 0], atol=1e-5, rtol=1e-5)


def test_training_reaches_everything(model):
    model.train()
    batch = {
        "pixels": torch.randint(0, 256, (6, 4, 16, 16, 3), dtype=torch.uint8),
        "action": torch.randn(6, 4, 6),
    }
    losses = model.losses(batch)
    assert losses.outputs["predictions"].shape == (6, 3, 1, 8)
    losses.total.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LeWMConfig, {"history": 2}, "history: found 2 with prefix 3, expected 1"),
        (PLDMConfig, {"predictor": "recurrent"}, "prefix: found 3 with a recurrent predictor"),
        (LeWMConfig, {"prefix": -1}, "prefix: found -1, expected at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        config(**{**SMALL, **changes})


def test_windows_must_be_as_long_as_the_prefix(model):
    with pytest.raises(ValueError, match="found windows of 3 frames, expected 4 to 4"):
        model.losses({"pixels": torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8), "action": torch.zeros(2, 3, 6)})
    assert dataclasses.replace(model.config, prefix=0).predictions == 1
