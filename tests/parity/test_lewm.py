"""LeWM against recorded outputs of its authors' code. Every size is read from the files."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from jepakit.zoo.lewm.official import read_official
from jepakit.zoo.weights import build_model


@pytest.fixture(scope="module")
def checkpoint(fixtures_dir):
    folder = fixtures_dir / "lewm_official_layout"
    encoder = json.loads((folder / "config.json").read_text())["fixture_encoder"]
    return read_official(folder, encoder_heads=encoder["num_attention_heads"])


@pytest.fixture(scope="module")
def recorded(fixtures_dir):
    with np.load(fixtures_dir / "lewm_official_layout" / "io.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def model(checkpoint):
    return build_model(checkpoint)


def assert_latents(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def assert_relative(found, expected):
    error = (found - expected).abs().max() / expected.abs().max()
    assert found.shape == expected.shape
    assert error <= 1e-4, f"relative error {error:.1e}"


def test_every_tensor_of_the_checkpoint_is_used(checkpoint, fixtures_dir):
    official = torch.load(fixtures_dir / "lewm_official_layout" / "weights.pt", weights_only=True)
    statistics = {"action_mean", "action_std", "action_low", "action_high"}
    ours = {name: value for name, value in checkpoint.tensors.items() if name not in statistics}
    assert sum(value.numel() for value in ours.values()) == sum(value.numel() for value in official.values())
    total = sum(value.double().sum() for value in ours.values())
    torch.testing.assert_close(total, sum(value.double().sum() for value in official.values()))


@torch.no_grad()
def test_encoder_action_encoder_and_predictor(model, recorded):
    assert_latents(model.encode_frames(recorded["pixels"]), recorded["emb"])
    assert_latents(model.embed_actions(recorded["action"]), recorded["act_emb"])
    frames = recorded["pred"].shape[1]
    predicted = model.predict(recorded["emb"][:, :frames].unsqueeze(2), recorded["action"][:, :frames])
    assert_latents(predicted.squeeze(2), recorded["pred"])


@pytest.mark.parametrize("context", ["h1", "h3"])
@torch.no_grad()
def test_rollouts_and_costs(model, recorded, context):
    expected, candidates = recorded[f"rollout_{context}"], recorded["candidates"]
    frames = expected.shape[2] - candidates.shape[2]
    past = recorded["past_actions"][:, : frames - 1]
    assert past.shape[1] == frames - 1
    z = model.encode_frames(recorded["pixels"][:, :frames]).unsqueeze(2)
    rolled = model.rollout(z, past, candidates)
    assert_latents(rolled.squeeze(3), expected[:, :, frames:])
    assert_latents(z.squeeze(2).unsqueeze(1).expand(-1, candidates.shape[1], -1, -1), expected[:, :, :frames])
    goal = model.encode_frames(recorded["goal"])
    assert_latents(goal, recorded["goal_emb"])
    assert_relative(model.goal_cost(rolled[:, :, -1], goal), recorded[f"cost_{context}"])


def test_training_losses_and_gradients_without_dropout(checkpoint, recorded):
    without_dropout = dataclasses.replace(checkpoint.config, dropout=0.0, lambda_=0.09)
    model = build_model(dataclasses.replace(checkpoint, config=without_dropout)).train()
    z = model.encode_frames(recorded["pixels"])
    losses = model.objective(z, model.embed_actions(recorded["action"][:, :-1]), recorded["sigreg_directions"])
    losses.total.backward()
    assert_relative(losses.terms["prediction"], recorded["train_pred_loss"])
    assert_relative(losses.terms["sigreg"], recorded["train_sigreg_loss"])
    assert_relative(losses.total, recorded["train_loss"])
    assert_relative(model.predictor.positions.grad, recorded["grad_pos_embedding"])
    assert_relative(model.projector.contract.weight.grad, recorded["grad_projector_last"])
