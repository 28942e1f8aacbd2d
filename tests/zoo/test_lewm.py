import dataclasses

import pytest
import torch

from jepakit.zoo.lewm.model import LeWMModel


@torch.no_grad()
def latents(model, batch):
    return model.encode({"pixels": batch["pixels"]})


@torch.no_grad()
def test_a_frame_is_encoded_alike_in_any_batch(model, batch):
    together = latents(model, batch)
    assert together.shape == (6, 4, 1, 8)
    for window in range(6):
        alone = model.encode({"pixels": batch["pixels"][window : window + 1, 1:2]})
        torch.testing.assert_close(alone[0, 0], together[window, 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_predictions_do_not_see_later_frames_or_actions(model, batch):
    z, a = latents(model, batch)[:, :3], batch["action"][:, :3]
    base = model.predict(z, a)
    for position in range(3):
        later_z, later_a = z.clone(), a.clone()
        later_z[:, position] = torch.flip(z[:, position], dims=[-1])
        later_a[:, position] -= 1.0
        for changed in (model.predict(later_z, a), model.predict(z, later_a)):
            torch.testing.assert_close(changed[:, :position], base[:, :position], atol=1e-6, rtol=1e-6)
            assert (changed[:, position] - base[:, position]).abs().max() > 1e-3


@torch.no_grad()
def test_shorter_histories_are_prefixes_of_longer_ones(model, batch):
    z, a = latents(model, batch)[:, :3], batch["action"][:, :3]
    whole = model.predict(z, a)
    for history in (1, 2):
        torch.testing.assert_close(model.predict(z[:, :history], a[:, :history]), whole[:, :history])


@pytest.mark.parametrize("history", [1, 2, 3])
@torch.no_grad()
def test_rollout_is_predict_applied_again_and_again(model, batches, history):
    batch = batches(2, frames=3)
    z, past = latents(model, batch)[:, :history], batch["action"][:, : history - 1]
    candidates = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3))
    rolled = model.rollout(z, past, candidates)
    assert rolled.shape == (2, 4, 5, 1, 8)
    for sample in range(4):
        frames, actions = z, torch.cat([past, candidates[:, sample]], dim=1)
        for now in range(history, history + 5):
            context = slice(max(0, now - 3), now)
            following = model.predict(frames[:, context], actions[:, context])[:, -1:]
            frames = torch.cat([frames, following], dim=1)
        torch.testing.assert_close(rolled[:, sample], frames[:, history:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_candidate_is_judged_alike_in_any_company(model, batches):
    batch = batches(3, frames=2)
    z, past = latents(model, batch), batch["action"][:, :1]
    candidates = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(4))
    rolled = model.rollout(z, past, candidates)
    alone = model.rollout(z[1:2], past[1:2], candidates[1:2, 3:4])
    torch.testing.assert_close(alone[0, 0], rolled[1, 3], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_actions_are_raw_units(model, batch, statistics):
    z, standardised = latents(model, batch)[:, :3], batch["action"][:, :3]
    raw = torch.from_numpy(statistics.action_mean) + standardised * torch.from_numpy(statistics.action_std)
    found = model.predict(z, raw)
    model.action_mean.zero_()
    model.action_std.fill_(1.0)
    torch.testing.assert_close(found, model.predict(z, standardised), atol=1e-5, rtol=1e-5)


def test_goal_cost_is_the_squared_distance(model):
    predicted = torch.randn(2, 5, 1, 8, generator=torch.Generator().manual_seed(5))
    goal = predicted[:, 2]
    cost = model.goal_cost(predicted, goal)
    assert torch.equal(cost[:, 2], torch.zeros(2))
    expected = sum((predicted[1, 4, 0, d] - goal[1, 0, d]) ** 2 for d in range(8))
    torch.testing.assert_close(cost[1, 4], expected)


def test_the_objective_is_prediction_plus_lambda_sigreg(model, batch):
    losses = model.losses(batch)
    z, predicted = losses.outputs["latents"], losses.outputs["predictions"]
    torch.testing.assert_close(z, latents(model, batch))
    torch.testing.assert_close(predicted, model.predict(z[:, :3], batch["action"][:, :3]))
    torch.testing.assert_close(losses.terms["prediction"], (predicted - z[:, 1:]).square().mean())
    torch.testing.assert_close(losses.total, losses.terms["prediction"] + 0.09 * losses.terms["sigreg"])


def test_the_step_draws_the_directions(model, batch):
    first, again, other = (model.losses(batch, step).terms["sigreg"] for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_last_action_of_a_window_is_not_used(model, batch):
    before = model.losses(batch).total
    batch["action"][:, -1] = 1e6
    assert torch.equal(model.losses(batch).total, before)


@pytest.mark.parametrize("encoder", ["vit", "cnn"])
def test_gradients_reach_every_parameter(small, batch, encoder):
    torch.manual_seed(0)
    model = LeWMModel({**small, "encoder": encoder, "dropout": 0.0}).train()
    for block in model.predictor.blocks:  # at zero, the modulation shields what is behind it
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
    model.losses(batch).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def spread_after_training(small, batches, lambda_):
    torch.manual_seed(0)
    model = LeWMModel({**small, "encoder": "cnn", "dropout": 0.0, "lambda_": lambda_}).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        model.losses(batches(24, seed=step % 8), step).total.backward()
        optimizer.step()
    return model.losses(batches(64, seed=99)).outputs["latents"].std(dim=0).mean().item()


def test_without_sigreg_the_latents_collapse(small, batches):
    """The reason for λ: prediction alone is solved by a constant."""
    assert spread_after_training(small, batches, 0.0) < 0.2
    assert spread_after_training(small, batches, 0.5) > 0.6


def test_windows_may_be_shorter_than_the_history(model, batch):
    short = {name: value[:, :2] for name, value in batch.items()}
    assert model.losses(short).outputs["predictions"].shape == (6, 1, 1, 8)


def test_training_twice_from_one_seed_gives_the_same_model(small, batches):
    def train():
        torch.manual_seed(0)
        model = LeWMModel({**small, "encoder": "cnn"}).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            model.losses(batches(8, seed=step), step).total.backward()
            optimizer.step()
        return model.state_dict()

    first, second = train(), train()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sizes_come_from_the_config_alone(model):
    rebuilt = LeWMModel(dataclasses.replace(model.config))
    rebuilt.load_state_dict(model.state_dict())
    assert {n: p.shape for n, p in rebuilt.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.parametrize("model", ["vit"], indirect=True)
def test_encoding_and_scoring_can_be_traced_for_any_batch(model, batches):
    """What the export relies on: no control flow that depends on values, batch sizes left open."""

    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels, past, candidates):
            z = self.model.encode({"pixels": pixels})
            return self.model.goal_cost(self.model.rollout(z[:, :2], past, candidates)[:, :, -1], z[:, 2])

    def inputs(windows, samples):
        batch = batches(windows, frames=3)
        candidates = torch.randn(windows, samples, 3, 6, generator=torch.Generator().manual_seed(6))
        return batch["pixels"], batch["action"][:, :1], candidates

    windows, samples = torch.export.Dim("windows"), torch.export.Dim("samples")
    open_sizes = ({0: windows}, {0: windows}, {0: windows, 1: samples})
    with torch.no_grad():
        traced = torch.export.export(Score(), inputs(2, 3), dynamic_shapes=open_sizes).module()
        other = inputs(5, 4)
        torch.testing.assert_close(traced(*other), Score()(*other))
