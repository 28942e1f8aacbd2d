"""The learned distance: its loss by hand, what it is asked of imagined latents, how a search uses it."""

import dataclasses
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from jepakit.datamodules.goals import Goals
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.zoo import DINOWMModel, Distance, DistanceConfig, DistanceModel, LeWMModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.weights import save_pretrained

torch.set_num_threads(1)

DATA = {"frame_skip": 2, "action_dim": 3}
SMALL = DistanceConfig(**DATA, max_offset=9, width=16, depth=2, latent_width=8)
LEWM = {
    **{**DATA, "image_size": 16, "history": 2, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8},
    **{"projector_hidden": 12, "predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1},
}

QUIET = {
    **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False},
    **{"enable_progress_bar": False, "enable_model_summary": False},
}


@pytest.fixture
def world():
    torch.manual_seed(0)
    return LeWMModel(LEWM).eval()


def make(**changes):
    torch.manual_seed(1)
    return DistanceModel(dataclasses.replace(SMALL, **changes)).eval()


@torch.no_grad()
def test_the_loss_by_hand():
    model = make(imagined=0.5)
    torch.manual_seed(2)
    batch = {
        "features": torch.randn(4, 2, 1, 8),
        "offset": torch.tensor([1, 4, 5, 9]),
        "imagined": torch.randn(4, 3, 1, 8),
    }
    found = model.losses(batch)
    real, imagined, count = 0.0, 0.0, 0
    for row, offset in enumerate(batch["offset"].tolist()):
        goal = batch["features"][row : row + 1, 1]
        real += abs(float(model(batch["features"][row : row + 1, 0], goal)) - offset)
        for block in range(3):
            left = offset - 2 * (block + 1)
            if left >= 0:
                imagined += abs(float(model(batch["imagined"][row : row + 1, block], goal)) - left)
                count += 1
    assert found.terms["real"].item() == pytest.approx(real / 4 / 9, rel=1e-5)
    assert found.terms["imagined"].item() == pytest.approx(imagined / count / 9, rel=1e-5)
    assert found.total.item() == pytest.approx(real / 4 / 9 + 0.5 * imagined / count / 9, rel=1e-5)


@torch.no_grad()
def test_candidates_are_judged_one_by_one():
    model = make()
    predicted, goal = torch.randn(2, 5, 1, 8), torch.randn(2, 1, 8)
    cost = model.goal_cost(predicted, goal)
    assert cost.shape == (2, 5)
    assert (cost >= 0).all()
    torch.testing.assert_close(cost[1, 3], model(predicted[1:2, 3], goal[1:2])[0])


def test_training_imagines_what_the_actions_lead_to(world, tmp_path):
    module = Distance(SMALL, world_model=str(save_pretrained(world, tmp_path / "world")))
    batch = {"features": torch.randn(3, 2, 1, 8), "action": torch.randn(3, 4, 3), "offset": torch.tensor([2, 3, 9])}
    prepared = module.prepare(batch)
    blocks = batch["action"].reshape(3, 1, 2, 6)
    expected = world.rollout(batch["features"][:, :1], torch.empty(3, 0, 6), blocks)[:, 0]
    torch.testing.assert_close(prepared["imagined"], expected)
    silent = Distance(dataclasses.replace(SMALL, imagined=0.0), world_model=str(tmp_path / "world"))
    assert "imagined" not in silent.prepare(batch)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_the_world_model_keeps_its_precision_in_a_training_of_another(tmp_path, precision):
    sizes = {"encoder": "cnn", "encoder_size": 16, "cnn_channels": [4, 6], "proprio_dim": 2, "image_size": 16}
    predictor = {"predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1, "predictor_heads": 2}
    folder = save_pretrained(DINOWMModel({**DATA, **sizes, **predictor}).eval(), tmp_path / "world")
    module = Distance(dataclasses.replace(SMALL, token_features=8, token_heads=2), world_model=str(folder))
    pairs = [
        {
            "pixels": torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8),
            "proprio": torch.randn(2, 2),
            "action": torch.randn(4, 3),
            "offset": torch.tensor(index + 1),
        }
        for index in range(8)
    ]
    trainer = L.Trainer(default_root_dir=tmp_path, precision=precision, **QUIET, max_steps=2)
    loader = torch.utils.data.DataLoader(pairs, batch_size=4)
    trainer.fit(module, loader, loader)
    assert torch.isfinite(trainer.callback_metrics["train/imagined"])
    assert module.world_model.action_mean.dtype == torch.float32


def test_the_world_model_is_moved_where_the_training_is_and_then_left_there(world, tmp_path, monkeypatch):
    module = Distance(SMALL, world_model=str(save_pretrained(world, tmp_path / "world")))
    assert module.to("meta").placed().action_mean.is_meta
    monkeypatch.setattr(module.world_model, "to", lambda _: pytest.fail("moved again"))
    assert module.placed() is module.world_model


class Pairs(L.LightningDataModule):
    """What is checked before training."""

    spec = SimpleNamespace(frame_skip=2, action_dim=3)
    goals = Goals(max_offset=9, steps=5)

    def train_dataloader(self):
        pytest.fail("too late")

    val_dataloader = train_dataloader


def test_actions_that_are_no_whole_blocks_are_refused_before_training(world, tmp_path):
    module = Distance(SMALL, world_model=str(save_pretrained(world, tmp_path / "world")))
    message = r"goals\.steps: the data have 5 .* frame_skip, 2; set goals\.steps of the data to a multiple"
    with pytest.raises(ValueError, match=message):
        L.Trainer(default_root_dir=tmp_path, **QUIET, max_steps=1).fit(module, Pairs())


def test_a_search_minimises_it_in_place_of_the_models_own(world):
    distance = make(world_model=fingerprint(world))
    for reader in (distance.reader.standardise,):
        reader.running_var.uniform_(0.5, 2.0)
    rng = np.random.default_rng(0)
    history, goal = (
        rng.standard_normal((1, 1, 1, 8), dtype=np.float32),
        rng.standard_normal((1, 1, 8), dtype=np.float32),
    )
    past, candidates = np.empty((1, 0, 6), np.float32), rng.standard_normal((1, 7, 2, 6), dtype=np.float32)
    found = TorchBackend(world, distance=distance).score(history, past, candidates, goal).distance
    with torch.no_grad():
        imagined = world.rollout(*map(torch.from_numpy, (history, past, candidates)))
        expected = [distance.goal_cost(imagined[:, :, step], torch.from_numpy(goal)).numpy() for step in range(2)]
    np.testing.assert_allclose(found, np.stack(expected, axis=2), rtol=1e-5)
    with pytest.raises(ValueError, match="distance: was trained on the latents of a world model"):
        TorchBackend(world, distance=make())


def test_it_learns_how_long_the_way_is():
    """Points on a line, walked at speed 1: the distance is what they are apart."""
    model = DistanceModel(dataclasses.replace(SMALL, latent_width=1, width=64))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(500):
        start, offset = torch.randn(128, 1, 1, 1), torch.randint(1, 10, (128,))
        sign = torch.randint(0, 2, (128,)) * 2 - 1
        features = torch.cat([start, start + (sign * offset).reshape(-1, 1, 1, 1)], dim=1)
        loss = model.losses({"features": features, "offset": offset}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(torch.zeros(3, 1, 1), torch.tensor([2.0, -5.0, 8.0]).reshape(3, 1, 1))
    np.testing.assert_allclose(found, [2.0, 5.0, 8.0], atol=1.0)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"imagined: found -1.0, expected a weight of 0 or more"):
        dataclasses.replace(SMALL, imagined=-1.0)
