"""A controller in the bundle: the same decisions as PyTorch's, without PyTorch."""

import dataclasses

import numpy as np
import pytest
import torch

from jepakit.export import export_bundle
from jepakit.export.runtime import open_backend
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import MPCConfig, ProposalConfig
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo import ControllerConfig, ControllerModel
from jepakit.zoo.files import fingerprint

SETTINGS = PlannerConfig(
    solver="controller", controller=ProposalConfig(offset=6, least_offset=2), mpc=MPCConfig(horizon=1, execute_blocks=1)
)


def make_controller(model, **changes):
    torch.manual_seed(0)
    config = ControllerConfig(
        **{"frame_skip": 2, "action_dim": 3, "steps": 4, "max_offset": 8, "modes": 3, "width": 16, "latent_width": 8},
        world_model=fingerprint(model),
    )
    controller = ControllerModel(dataclasses.replace(config, **changes)).eval()
    for name in ("action_mean", "action_std", "action_low", "action_high"):
        getattr(controller, name).copy_(getattr(model, name))
    torch.nn.init.normal_(controller.modulation.weight, std=0.3)
    return controller


@pytest.fixture(scope="module")
def made(make_model, tmp_path_factory):
    model = make_model("pldm")
    controller = make_controller(model)
    folder = tmp_path_factory.mktemp("controller") / "bundle"
    return model, controller, export_bundle(model, folder, horizon=1, planner=SETTINGS, controller=controller)


def test_every_engine_proposes_the_same(made):
    model, controller, bundle = made
    reference, engine = TorchBackend(model, controller=controller), open_backend(bundle)
    assert (engine.spec.proposals, engine.spec.proposed_blocks, engine.spec.max_offset) == (3, 2, 8)
    rng = np.random.default_rng(0)
    here, there = rng.standard_normal((2, 5, 1, 8), dtype=np.float32)
    offset = np.float32([1, 3, 5, 7, 8])
    expected, found = (backend.propose(here, there, offset) for backend in (reference, engine))
    assert expected.shape == (5, 3, 2, 6)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with torch.no_grad():
        plans, weights = (value.numpy() for value in controller.propose(*map(torch.from_numpy, (here, there, offset))))
    for row in range(5):
        np.testing.assert_allclose(expected[row], plans[row][np.argsort(-weights[row])], atol=1e-5)
    assert bundle.manifest["verification"]["fp32"]["relative_error"]["controller"] < 1e-4


def test_the_bundle_acts_as_pytorch_does(made):
    model, controller, bundle = made
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
    plans = []
    for backend in (TorchBackend(model, controller=controller), open_backend(bundle)):
        policy = bundle.policy(backend)
        seen = policy.planner.observe(frames[:1])
        goal = policy.planner.encode_goal(frames[1])
        initial = policy.planner.propose(seen.latents[:, -1], goal, offset=6, horizon=1)
        plans.append(policy.planner.plan(seen, goal, horizon=1, rngs=[np.random.default_rng(0)], initial=initial))
    np.testing.assert_allclose(plans[1].actions, plans[0].actions, atol=1e-5)


def test_anothers_controller_is_refused(make_model):
    model = make_model("pldm")
    controller = make_controller(model, world_model="0" * 64)
    with pytest.raises(ValueError, match="trained on the latents of a world model with the fingerprint 000000000000"):
        TorchBackend(model, controller=controller)


def test_settings_that_ask_a_controller_need_one(make_model, tmp_path):
    for settings in (SETTINGS, dataclasses.replace(SETTINGS, solver="cem", proposals=True)):
        with pytest.raises(ValueError, match="planner: found settings that ask a controller"):
            export_bundle(make_model("pldm"), tmp_path / "bundle", horizon=1, planner=settings)
