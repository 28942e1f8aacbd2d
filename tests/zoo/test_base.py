from dataclasses import dataclass

import numpy as np
import pytest
import torch

from jepakit.zoo import LeWMConfig
from jepakit.zoo.config import at_least
from jepakit.zoo.lewm.model import LeWMModel


def test_frames_are_scaled_like_imagenet_pictures(model, batch):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((batch["pixels"].double() / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(model.normalise_frames(batch["pixels"]).double(), expected, atol=1e-6, rtol=0)


def test_actions_are_standardised_with_the_buffers(model, batch, statistics):
    expected = (batch["action"].numpy() - statistics.action_mean) / statistics.action_std
    np.testing.assert_allclose(model.normalise_actions(batch["action"]).numpy(), expected, rtol=1e-6)


def test_statistics_are_buffers_of_the_checkpoint(model, statistics):
    state = model.state_dict()
    for name in ("action_mean", "action_std", "action_low", "action_high"):
        np.testing.assert_array_equal(state[name].numpy(), getattr(statistics, name))


def test_without_statistics_actions_pass_unchanged_and_unbounded(small):
    fresh = LeWMModel(small)
    actions = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh.normalise_actions(actions), actions)
    assert torch.equal(fresh.action_high, torch.full((3,), torch.inf))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "action_mean",
            np.zeros(4),
            r"action_mean: found shape \(4,\), expected \(6,\) from frame_skip, action_dim",
        ),
        ("action_mean", np.array([0, 0, np.nan, 0, 0, 0]), r"action_mean: found \[nan\] in columns \[2\]"),
        (
            "action_std",
            np.array([1, 1, 1, 1, 0, 1]),
            r"action_std: found \[0.0\] in columns \[4\], expected finite and positive",
        ),
        ("action_low", np.array([np.nan, 0, 0]), "action_low: found"),
        ("action_low", np.full(3, 9.0), "action_low exceeds action_high"),
    ],
)
def test_bad_statistics_change_nothing(model, statistics, field, value, message):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    statistics.action_mean = statistics.action_mean + 1
    setattr(statistics, field, value)
    with pytest.raises(ValueError, match=message):
        model.set_statistics(statistics)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@dataclass(frozen=True, kw_only=True)
class WithProprio(LeWMConfig):
    proprio_dim: int = at_least(0, default=0)


def test_proprioception_is_standardised_where_the_model_takes_it(small, statistics):
    model = LeWMModel(WithProprio(**{**small, "cnn_channels": (4, 6), "proprio_dim": 2}))
    with pytest.raises(ValueError, match="proprio_mean: the data have none, the model's proprio_dim is 2"):
        model.set_statistics(statistics)
    statistics.proprio_mean, statistics.proprio_std = np.array([1.0, 2.0]), np.array([0.5, 4.0])
    model.set_statistics(statistics)
    torch.testing.assert_close(model.normalise_proprio(torch.tensor([[2.0, 10.0]])), torch.tensor([[2.0, 2.0]]))
    assert {"proprio_mean", "proprio_std"} <= model.state_dict().keys()


def refusals(batch):
    pixels, action = batch["pixels"], batch["action"]
    z = torch.zeros(6, 3, 1, 8)
    return {
        "no pixels": (lambda m: m.encode({}), r"observation: found keys \[\], expected 'pixels'"),
        "size": (
            lambda m: m.encode({"pixels": pixels[:, :, :8]}),
            r"found shape \(6, 4, 8, 16, 3\), expected \(batch, frames, 16, 16, 3\)",
        ),
        "channels first": (
            lambda m: m.encode({"pixels": pixels.permute(0, 1, 4, 2, 3)}),
            r"found shape \(6, 4, 3, 16, 16\)",
        ),
        "no batch": (lambda m: m.encode({"pixels": pixels[0]}), r"found shape \(4, 16, 16, 3\)"),
        "dtype": (lambda m: m.encode({"pixels": pixels.float()}), "found torch.float32, expected torch.uint8"),
        "width": (
            lambda m: m.predict(z, action[:, :3, :5]),
            r"actions: found shape \(6, 3, 5\), expected \(6, 3, 6\): .*frame_skip 2 × action_dim 3",
        ),
        "history": (
            lambda m: m.predict(torch.zeros(6, 4, 1, 8), action),
            r"found shape \(6, 4, 1, 8\), expected .* 1 to 3 frames",
        ),
        "past": (
            lambda m: m.rollout(z, action[:, :3], action[:, None]),
            r"past_actions: found shape \(6, 3, 6\), expected \(6, 2, 6\)",
        ),
        "candidates": (
            lambda m: m.rollout(z, action[:, :2], action[:1, None]),
            r"candidates: found shape \(1, 1, 4, 6\), expected \(6, 1, 4, 6\)",
        ),
        "goal": (
            lambda m: m.goal_cost(z[:, None, 0], z),
            r"goal: found shape \(6, 3, 1, 8\) for predicted \(6, 1, 1, 8\)",
        ),
        "no action": (lambda m: m.losses({"pixels": pixels}), "batch: found keys .*, expected 'action'"),
        "action width": (
            lambda m: m.losses({"pixels": pixels, "action": action[..., :4]}),
            r"action: found shape \(6, 4, 4\)",
        ),
        "one frame": (
            lambda m: m.losses({"pixels": pixels[:, :1], "action": action[:, :1]}),
            "windows of 1 frames, expected 2 to 4",
        ),
        "long window": (
            lambda m: m.losses({"pixels": pixels.repeat(1, 2, 1, 1, 1), "action": action.repeat(1, 2, 1)}),
            "windows of 8 frames",
        ),
    }


@pytest.mark.parametrize("case", sorted(refusals({"pixels": torch.zeros(0), "action": torch.zeros(0)})))
def test_bad_input_is_refused_by_name(model, batch, case):
    call, message = refusals(batch)[case]
    with pytest.raises(ValueError, match=message):
        call(model)


def test_the_paper_size_has_the_paper_codes_parameters():
    model = LeWMModel(LeWMConfig.tiny())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    millions = {name: round(count / 1e6, 2) for name, count in counts.items()}
    assert round(counts["encoder"] / 1e6, 1) == 5.5
    assert millions["projector"] == millions["prediction_projector"] == 0.79
    assert millions["predictor"] == 10.79
    assert millions["action_encoder"] == 0.16
    assert round(sum(counts.values()) / 1e6, 2) == 18.03
