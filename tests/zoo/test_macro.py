"""Macro-actions: what they are trained on, the coarse world made of them, what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.zoo import DistanceConfig, DistanceModel, LeWMModel, Macro, MacroConfig, MacroModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.macro.model import CoarseWorld
from jepakit.zoo.weights import save_pretrained

torch.set_num_threads(1)

DATA = {"frame_skip": 2, "action_dim": 3}
SMALL = MacroConfig(**DATA, steps=4, macro_dim=2, width=16, depth=1, heads=2, latent_width=8)
LEWM = {
    **{**DATA, "image_size": 16, "history": 2, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8},
    **{"projector_hidden": 12, "predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1},
}


@pytest.fixture
def world():
    torch.manual_seed(0)
    return LeWMModel(LEWM).eval()


def make(**changes):
    torch.manual_seed(1)
    model = MacroModel(dataclasses.replace(SMALL, **changes)).eval()
    torch.nn.init.normal_(model.change.weight)  # it starts as "nothing moves"
    return model


def batch(rows=6, offset=4):
    torch.manual_seed(2)
    return {
        "features": torch.randn(rows, 2, 1, 8),
        "action": torch.randn(rows, 4, 3),
        "offset": torch.full((rows,), offset),
    }


@torch.no_grad()
def test_an_untrained_model_predicts_no_change():
    model = MacroModel(SMALL).eval()
    latents = torch.randn(3, 1, 8)
    torch.testing.assert_close(model(latents, torch.randn(3, 2)), latents)
    found = model.losses(batch())
    torch.testing.assert_close(found.total, found.terms["still"])


@torch.no_grad()
def test_the_loss_is_the_error_after_a_macro_action():
    model, given = make(), batch()
    found = model.losses(given)
    predicted = model(given["features"][:, 0], model.encode_actions(given["action"]))
    torch.testing.assert_close(found.total, (predicted - given["features"][:, 1]).square().mean())
    torch.testing.assert_close(found.outputs["predictions"], predicted)


def test_noise_depends_on_the_step_alone():
    model, given = make(noise=0.5).train(), batch()
    first, again, later = (model.losses(given, step).total.item() for step in (3, 3, 4))
    assert first == again != later


def test_macro_actions_have_unit_variance_over_the_data():
    model = make().train()
    macros = model.encode_actions(torch.randn(512, 4, 3))
    torch.testing.assert_close(macros.mean(dim=0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(macros.var(dim=0, correction=0), torch.ones(2), atol=1e-2, rtol=0)


@torch.no_grad()
def test_slots_keep_their_places_whatever_their_order():
    model = make(tokens=3, ordered=False)
    latents, macros, order = torch.randn(2, 3, 8), torch.randn(2, 2), torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(latents[:, order], macros), model(latents, macros)[:, order])


@torch.no_grad()
def test_the_coarse_world_rolls_macro_actions_out(world):
    macro = make(world_model=fingerprint(world))
    backend = TorchBackend(CoarseWorld(world, macro))
    assert (backend.spec.history, backend.spec.frame_skip, backend.spec.action_dim) == (1, 1, 2)
    rng = np.random.default_rng(0)
    start, goal = rng.standard_normal((1, 1, 1, 8), np.float32), rng.standard_normal((1, 1, 8), np.float32)
    plans, past = rng.standard_normal((1, 5, 3, 2), np.float32), np.empty((1, 0, 2), np.float32)
    imagined = backend.imagine(start, past, plans)
    z = torch.from_numpy(start[:, 0])
    for step in range(3):
        z = macro(z, torch.from_numpy(plans[:, 2, step]))
        np.testing.assert_allclose(imagined[:, 2, step], z, rtol=1e-4, atol=1e-5)
    cost = world.goal_cost(torch.from_numpy(imagined[:, :, 1]), torch.from_numpy(goal))
    np.testing.assert_allclose(backend.score(start, past, plans, goal).distance[:, :, 1], cost, rtol=1e-4)
    frames = rng.integers(0, 255, (2, 1, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(backend.encode(frames), TorchBackend(world).encode(frames))


def test_a_distance_of_the_fine_world_judges_the_coarse_one(world):
    coarse = CoarseWorld(world, make(world_model=fingerprint(world)))
    distance = DistanceModel(DistanceConfig(**DATA, latent_width=8, width=8, world_model=fingerprint(world)))
    assert TorchBackend(coarse, distance=distance).distance is distance


def test_other_worlds_and_other_goals_are_refused(world):
    with pytest.raises(ValueError, match="macro: was trained on the latents of a world model with the fingerprint"):
        CoarseWorld(world, make())
    with pytest.raises(ValueError, match=r"offset: found \[3\], expected 4, as many as a macro-action has; set goals"):
        make().losses(batch(offset=3))
    with pytest.raises(ValueError, match=r"width: found 15, expected a multiple of heads, 2"):
        dataclasses.replace(SMALL, width=15)
    with pytest.raises(ValueError, match=r"noise: found -0.1, expected a standard deviation of 0 or more"):
        dataclasses.replace(SMALL, noise=-0.1)
    with pytest.raises(TypeError, match=r"CoarseWorld.losses: called"):
        CoarseWorld(world, make(world_model=fingerprint(world))).losses({})


def test_it_learns_where_macro_actions_lead(world, tmp_path):
    """A point that moves by the sum of its actions."""
    module = Macro(
        dataclasses.replace(SMALL, macro_dim=3, noise=0.0, width=64),
        world_model=str(save_pretrained(world, tmp_path / "world")),
    )
    model = module.model.train()
    assert model.config.world_model == fingerprint(world)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(300):
        start, action = torch.randn(128, 1, 8), torch.randn(128, 4, 3)
        moved = torch.nn.functional.pad(action.sum(dim=1), (0, 5)).unsqueeze(1)
        features, offset = torch.stack([start, start + moved], dim=1), torch.full((128,), 4)
        found = model.losses({"features": features, "action": action, "offset": offset})
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
    assert found.total < 0.1 * found.terms["still"]
