"""The controller: its loss by hand, what its tokens may depend on, whose latents it takes."""

import dataclasses
import math
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from jepakit.datamodules.goals import Goals
from jepakit.zoo import CJEPAModel, Controller, ControllerConfig, ControllerModel, LeWM, LeWMModel, from_pretrained
from jepakit.zoo.latents import load_latent_model
from jepakit.zoo.weights import save_pretrained

torch.set_num_threads(1)

DATA = {"frame_skip": 2, "action_dim": 3}
SMALL = ControllerConfig(
    **DATA, steps=6, max_offset=9, width=16, depth=2, latent_width=8, token_features=8, token_heads=2
)
WORLD = {**DATA, "image_size": 16, "history": 2}
PREDICTOR = {"predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1}
LEWM = {**WORLD, **PREDICTOR, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8, "projector_hidden": 12}


def make(**changes):
    torch.manual_seed(0)
    model = ControllerModel(dataclasses.replace(SMALL, **changes))
    for layer in (model.modulation, model.actions, model.weights):
        torch.nn.init.normal_(layer.weight, std=0.3)
    model.action_mean.copy_(torch.tensor([0.5, -1.0, 2.0]).repeat(2))
    model.action_std.copy_(torch.tensor([2.0, 0.5, 1.0]).repeat(2))
    return model.eval()


def random_batch(model, batch=5):
    config = model.config
    torch.manual_seed(1)
    return {
        "features": torch.randn(batch, 2, config.tokens, config.latent_width),
        "action": torch.randn(batch, config.steps, config.action_dim),
        "offset": torch.randint(1, config.max_offset + 1, (batch,)),
    }


@pytest.fixture
def world_model(tmp_path):
    torch.manual_seed(0)
    return LeWMModel(LEWM), save_pretrained(LeWMModel(LEWM).eval(), tmp_path / "world")


def test_the_loss_by_hand():
    model = make(modes=2)
    model.log_sigma.data.fill_(0.3)
    batch = random_batch(model)
    found = model.losses(batch)
    with torch.no_grad():
        means, log_weights = model(batch["features"][:, 0], batch["features"][:, 1], batch["offset"])
    wanted = (batch["action"] - torch.tensor([0.5, -1.0, 2.0])) / torch.tensor([2.0, 0.5, 1.0])
    total, count, chosen, nearest = 0.0, 0, 0.0, 0.0
    for row in range(5):
        before = min(6, int(batch["offset"][row]))
        errors = [float((means[row, mode, :before] - wanted[row, :before]).square().sum()) for mode in range(2)]
        densities = [
            math.exp(float(log_weights[row, mode]) - 0.5 * errors[mode] / math.exp(0.3) ** 2 - 3 * before * 0.3)
            for mode in range(2)
        ]
        total -= math.log(sum(densities))
        count += 3 * before
        chosen += errors[int(log_weights[row].argmax())]
        nearest += min(errors)
    assert found.total.item() == pytest.approx(total / count, rel=1e-5)
    assert found.terms["likeliest_mse"].item() == pytest.approx(chosen / count, rel=1e-5)
    assert found.terms["nearest_mse"].item() == pytest.approx(nearest / count, rel=1e-5)


def test_actions_after_the_goal_do_not_count():
    model, batch = make(), None
    batch = random_batch(model)
    expected = model.losses(batch).total
    for row, offset in enumerate(batch["offset"].tolist()):
        batch["action"][row, offset:] = 99.0
    assert torch.equal(model.losses(batch).total, expected)
    batch["action"][0, int(batch["offset"][0]) - 1] = 99.0
    assert not torch.equal(model.losses(batch).total, expected)


@pytest.mark.parametrize(
    ("ordered", "flatten", "same"), [(False, False, True), (True, False, False), (True, True, False)]
)
def test_only_ordered_tokens_have_places(ordered, flatten, same):
    model = make(tokens=4, ordered=ordered, flatten=flatten)
    if ordered and not flatten:
        torch.nn.init.normal_(model.reader.positions)
    z, g, h = torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.tensor([3.0, 8.0])
    here, there = model.propose(z, g, h)[0], model.propose(z[:, [2, 0, 3, 1]], g[:, [1, 3, 0, 2]], h)[0]
    assert torch.allclose(here, there, atol=1e-5) is same


def test_start_goal_and_offset_all_matter():
    for model in (make(), make(tokens=3), make(tokens=3, flatten=True)):
        z, g = torch.randn(2, 1, model.config.tokens, 8)
        plans = [
            model.propose(*arguments)[0]
            for arguments in ((z, g, torch.tensor([5.0])), (g, z, torch.tensor([5.0])), (z, g, torch.tensor([2.0])))
        ]
        assert not torch.allclose(plans[0], plans[1])
        assert not torch.allclose(plans[0], plans[2])


def test_proposals_are_raw_blocks_within_the_bounds():
    model = make(modes=3)
    z, g, h = torch.randn(4, 1, 8), torch.randn(4, 1, 8), torch.full((4,), 5.0)
    plans, weights = model.propose(z, g, h)
    assert plans.shape == (4, 3, 3, 6)
    assert torch.allclose(weights.exp().sum(dim=1), torch.ones(4))
    means, _ = model(z, g, h)
    raw = means * torch.tensor([2.0, 0.5, 1.0]) + torch.tensor([0.5, -1.0, 2.0])
    assert torch.allclose(plans.reshape(4, 3, 6, 3), raw)
    model.action_low.fill_(-0.1)
    model.action_high.fill_(0.2)
    bounded, _ = model.propose(z, g, h)
    assert (bounded >= -0.1).all()
    assert (bounded <= 0.2).all()


def test_evaluation_standardises_as_batch_norm_does():
    layer = make().reader.standardise.train()
    for _ in range(20):
        layer(3 * torch.randn(64, 24) + 1)
    x = torch.randn(5, 24)
    expected = torch.nn.functional.batch_norm(x, layer.running_mean, layer.running_var)
    assert torch.allclose(layer.eval()(x), expected, atol=1e-6)


def test_a_controller_knows_its_world_model(world_model, tmp_path):
    other, folder = world_model
    module = Controller(dataclasses.replace(SMALL, latent_width=1), world_model=str(folder))
    assert (module.model.config.tokens, module.model.config.latent_width) == (1, 8)
    assert module.model.config.frame_skip == 2
    module.model.check_world_model(from_pretrained(folder).model)
    with pytest.raises(ValueError, match=r"was trained on the latents of a world model with the fingerprint .*, found"):
        module.model.check_world_model(other)
    saved = module.save_pretrained(tmp_path / "controller")
    loaded = Controller.from_pretrained(saved)
    assert loaded.model.config == module.model.config
    for name, value in module.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])
    assert torch.equal(load_latent_model(ControllerModel, saved).log_sigma, module.model.log_sigma)
    assert not any("frozen" in name or "encoder" in name for name in loaded.state_dict())
    with pytest.raises(ValueError, match="world_model: found nothing"):
        loaded.world_model  # noqa: B018


def test_steps_are_whole_blocks_of_the_world_models(tmp_path):
    folder = save_pretrained(LeWMModel({**LEWM, "frame_skip": 4}).eval(), tmp_path / "world")
    assert Controller(ControllerConfig(steps=24), world_model=str(folder)).model.config.frame_skip == 4
    with pytest.raises(ValueError, match="steps: found 25, expected whole blocks of frame_skip, 4"):
        Controller(ControllerConfig(steps=25), world_model=str(folder))


def test_no_parameter_is_without_dimensions_and_those_of_earlier_versions_load(tmp_path):
    """FSDP2 refuses to share such parameters."""
    model = make()
    model.log_sigma.data.fill_(0.3)
    assert all(parameter.ndim for parameter in model.parameters())
    saved = {**model.state_dict(), "log_sigma": model.log_sigma.detach().squeeze()}
    folder = save_pretrained(model, tmp_path / "controller", tensors=saved)
    assert torch.equal(load_latent_model(ControllerModel, folder).log_sigma, model.log_sigma)


def test_a_controller_is_no_world_model(world_model, tmp_path):
    _, folder = world_model
    saved = Controller(SMALL, world_model=str(folder)).save_pretrained(tmp_path / "controller")
    with pytest.raises(ValueError, match="found a checkpoint of Controller, expected WorldModelModule"):
        from_pretrained(saved)
    with pytest.raises(ValueError, match="found a controller, expected a world model"):
        Controller(SMALL, world_model=str(saved))
    with pytest.raises(ValueError, match="found a lewm, expected a controller"):
        load_latent_model(ControllerModel, folder)
    with pytest.raises(ValueError, match="found a checkpoint of Controller, expected LeWM"):
        LeWM.from_pretrained(saved)


class Pairs(L.LightningDataModule):
    """What is checked before training."""

    spec = SimpleNamespace(frame_skip=2, action_dim=3)

    def __init__(self, farthest):
        super().__init__()
        self.goals = Goals(max_offset=farthest, steps=6)

    def train_dataloader(self):
        pytest.fail("too late")

    val_dataloader = train_dataloader


@pytest.mark.parametrize("farthest", [8, 10])
def test_goals_that_are_not_as_far_as_it_says_are_refused_before_training(world_model, tmp_path, farthest):
    module = Controller(SMALL, world_model=str(world_model[1]))
    quiet = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "max_steps": 1}
    message = rf"max_offset: the data's goals are up to {farthest} steps away, the model expects 9; .*goals\.max_offset"
    with pytest.raises(ValueError, match=message):
        L.Trainer(default_root_dir=tmp_path, **quiet).fit(module, Pairs(farthest))


def test_slots_have_no_order(tmp_path):
    slots = {**WORLD, "slots": 3, "slot_dim": 8}
    model = CJEPAModel({**slots, "slot_channels": 4, "slot_hidden": 8, "slot_iterations": 2, "proprio_dim": 2})
    folder = save_pretrained(model, tmp_path / "slots")
    config = Controller(SMALL, world_model=str(folder)).model.config
    assert not config.ordered
    assert (config.tokens, config.latent_width) == (4, 8)  # the proprioception's token too


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "expected also .'features'.: a controller learns from goal pairs"),
        ({"features": torch.zeros(5, 2, 1, 7)}, r"features: found shape \(5, 2, 1, 7\)"),
        ({"action": torch.zeros(5, 4, 3)}, r"action: found shape \(5, 4, 3\)"),
    ],
)
def test_wrong_batches_are_refused(change, message):
    model = make()
    batch = {name: value for name, value in {**random_batch(model), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        model.losses(batch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5, "world_model": "0f"}, "steps: found 5, expected whole blocks of frame_skip, 2"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"modes": 0}, "modes: found 0, expected at least 1"),
        ({"tokens": 4, "ordered": False, "flatten": True}, "flatten: found true, expected false: this world model's"),
    ],
)
def test_wrong_sizes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **values)


def test_it_learns_to_go_where_it_is_told():
    """A point on a line, its position as its latent: the way there is the difference over the offset."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, frame_skip=1, action_dim=1, steps=4, latent_width=1, width=64, dropout=0.0)
    model = ControllerModel(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(1000):
        start, offset = torch.rand(128, 1, 1, 1), torch.randint(1, 10, (128,))
        speed = 2 * torch.rand(128) - 1
        goal = start + (speed * offset).reshape(-1, 1, 1, 1)
        actions = speed.reshape(-1, 1, 1).expand(-1, 4, 1)
        loss = model.losses({"features": torch.cat([start, goal], dim=1), "action": actions, "offset": offset})
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        plans, _ = model.propose(torch.full((1, 1, 1), 0.3), torch.full((1, 1, 1), 2.7), torch.tensor([4.0]))
    np.testing.assert_allclose(plans.flatten(), np.full(4, 0.6), atol=0.15)
