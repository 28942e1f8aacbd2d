"""A controller in the bundle: the same decisions as PyTorch's, without PyTorch."""

import dataclasses

import numpy as np
import pytest
import torch

from jepakit.export import export_bundle
from jepakit.export.runtime import open_backend
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning.mpc import ProposalConfig


def test_every_engine_proposes_the_same(controlled):
    model, controller, bundle = controlled
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


def test_the_bundle_acts_as_pytorch_does(controlled):
    model, controller, bundle = controlled
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, 16, 16, 3), dtype=np.uint8)
    plans = []
    for backend in (TorchBackend(model, controller=controller), open_backend(bundle)):
        policy = bundle.policy(backend)
        seen = policy.planner.observe(frames[:1])
        goal = policy.planner.encode_goal(frames[1])
        initial = policy.planner.propose(seen.latents[:, -1], goal, offset=6, horizon=1)
        plans.append(policy.planner.plan(seen, goal, horizon=1, rngs=[np.random.default_rng(0)], initial=initial))
    np.testing.assert_allclose(plans[1].actions, plans[0].actions, atol=1e-5)


def test_anothers_controller_is_refused(make_model, make_controller):
    model = make_model("pldm")
    controller = make_controller(model, world_model="0" * 64)
    with pytest.raises(ValueError, match="trained on the latents of a world model with the fingerprint 000000000000"):
        TorchBackend(model, controller=controller)


def test_settings_that_ask_a_controller_need_one(make_model, follow, tmp_path):
    for settings in (follow, dataclasses.replace(follow, solver="cem", proposals=True)):
        with pytest.raises(ValueError, match="planner: found settings that ask a controller"):
            export_bundle(make_model("pldm"), tmp_path / "bundle", horizon=1, planner=settings)


def test_goals_farther_than_the_controller_knows_are_refused_before_the_robot_does(
    make_model, make_controller, follow, tmp_path
):
    model = make_model("pldm")
    far = dataclasses.replace(follow, controller=ProposalConfig(offset=9))
    with pytest.raises(ValueError, match=r"controller\.offset: found 9, expected 1 to 8"):
        export_bundle(model, tmp_path / "bundle", horizon=1, planner=far, controller=make_controller(model))


def test_half_precision_is_the_world_models_alone(make_model, make_controller, queries, tmp_path, monkeypatch):
    for name, limit in (("LEAST_OVERLAP", 0.0), ("LARGEST_EXCESS", 10.0)):
        monkeypatch.setattr(f"jepakit.export.exporter.{name}", limit)
    model = make_model("pldm")
    arguments = {"horizon": 1, "controller": make_controller(model), "queries": queries("pldm")}
    bundle = export_bundle(model, tmp_path / "bundle", precision="fp16", **arguments)
    figures = bundle.manifest["verification"]
    errors = figures["fp16"]["relative_error"], figures["fp32"]["relative_error"]
    assert errors[0]["controller"] == errors[1]["controller"] < 1e-5 < errors[0]["score_1"]
