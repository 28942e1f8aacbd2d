"""The way back from costs to actions, and physical quantities beside the distance, for every family."""

import numpy as np
import pytest
import torch

from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import (
    CEMConfig,
    DifferentiableBackend,
    GradientConfig,
    KeepOutConfig,
    MPCConfig,
    MPPIConfig,
    ObjectiveConfig,
    Observation,
    PlannerConfig,
    RandomShootingConfig,
    ReachTargetConfig,
)
from jepakit.zoo import (
    CJEPAConfig,
    CJEPAModel,
    DINOWMConfig,
    DINOWMModel,
    LeWMConfig,
    LeWMModel,
    PLDMConfig,
    PLDMModel,
    VJEPAConfig,
    VJEPAModel,
)
from jepakit.zoo.readout import Readout, fit_readout

FAMILIES = {
    "lewm": lambda: LeWMModel(LeWMConfig.nano()),
    "pldm": lambda: PLDMModel(PLDMConfig.nano()),
    "dinowm": lambda: DINOWMModel(DINOWMConfig.nano()),
    "cjepa": lambda: CJEPAModel(CJEPAConfig.nano()),
    "vjepa": lambda: VJEPAModel(VJEPAConfig.nano()),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Operations this small only get slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(family):
    """Random weights everywhere: fresh AdaLN gates are zero, and costs would not depend on the actions."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def make_query(backend, environments, *, candidates=4, horizon=3):
    rng = np.random.default_rng(0)
    spec = backend.spec
    latents = rng.normal(size=(environments, 3, spec.tokens, spec.width)).astype(np.float32)
    actions = rng.normal(size=(environments, candidates + 1, horizon, spec.block_width)).astype(np.float32)
    return latents[:, :2], actions[:, 0, :1], actions[:, 1:], latents[:, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_finite_differences(family):
    model = make_model(family)
    sizes = TorchBackend(model).spec
    readout = Readout(["x", "y"], sizes.tokens * sizes.width)
    readout.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    backend = TorchBackend(model, readout, candidates_per_call=3)
    assert isinstance(backend, DifferentiableBackend)
    history, past, candidates, goal = make_query(backend, 2)
    scores, pull_back = backend.differentiate(history, past, candidates, goal)
    plain = backend.score(history, past, candidates, goal)
    np.testing.assert_allclose(scores.distance, plain.distance, rtol=1e-5)
    np.testing.assert_allclose(scores.readout, plain.readout, rtol=1e-4, atol=1e-5)

    rng = np.random.default_rng(1)
    by_distance, by_readout = (rng.normal(size=part.shape) for part in (scores.distance, scores.readout))

    def cost(moved):
        found = backend.score(history, past, moved.astype(np.float32), goal)
        distances = (found.distance.astype(np.float64) * by_distance).sum(axis=2)
        return distances + (found.readout.astype(np.float64) * by_readout).sum(axis=(2, 3))

    slope = pull_back(by_distance.astype(np.float32), by_readout.astype(np.float32))
    direction = np.sign(slope)  # the directional derivative is then far from the rounding error of float32
    expected = (cost(candidates + 2e-3 * direction) - cost(candidates - 2e-3 * direction)) / 4e-3
    np.testing.assert_allclose((slope * direction).sum(axis=(2, 3)), expected, rtol=0.03)


def test_only_what_is_asked_for_is_pulled_back():
    backend = TorchBackend(make_model("lewm"), Readout(["x"], 64))
    query = make_query(backend, 1)
    ones = np.ones((1, 4, 3), np.float32)
    none = np.zeros((1, 4, 3, 1), np.float32)
    alone = backend.differentiate(*query)[1](ones, None)
    both = backend.differentiate(*query)[1](ones, none)
    np.testing.assert_allclose(alone, both, atol=1e-6)
    assert np.abs(alone).max() > 0
    np.testing.assert_array_equal(backend.differentiate(*query)[1](None, none), 0)


@pytest.mark.parametrize("solver", ["gradient", "icem", "mppi", "random_shooting"])
def test_plans_are_bit_identical_for_batch_1_and_6(solver):
    backend = TorchBackend(make_model("lewm"))
    config = PlannerConfig(
        solver=solver,
        mppi=MPPIConfig(samples=30, iterations=3),
        random_shooting=RandomShootingConfig(samples=30, iterations=3),
        gradient=GradientConfig(samples=4, iterations=5),
    )
    planner = config.planner(backend)
    history, past, _, goal = make_query(backend, 6)

    def plan(rows):
        seen = Observation(latents=history[rows], past_actions=past[rows])
        rngs = [np.random.default_rng([4, index]) for index in range(6)[rows]]
        return planner.plan(seen, goal[rows], horizon=3, rngs=rngs)

    together = plan(slice(0, 6))
    assert len(np.unique(together.actions[:, 0, 0])) == 6
    for index in range(6):
        alone = plan(slice(index, index + 1))
        np.testing.assert_array_equal(alone.actions[0], together.actions[index])
        np.testing.assert_array_equal(alone.cost[0], together.cost[index])


def test_following_the_gradient_lowers_the_cost():
    backend = TorchBackend(make_model("lewm"))
    config = PlannerConfig(solver="gradient", gradient=GradientConfig(samples=4, iterations=20))
    planner = config.planner(backend)
    history, past, _, goal = make_query(backend, 2)
    costs = []
    original = backend.differentiate
    backend.differentiate = lambda *query: costs.append(original(*query)) or costs[-1]
    seen = Observation(latents=history, past_actions=past)
    plan = planner.plan(seen, goal, horizon=3, rngs=[np.random.default_rng(b) for b in range(2)])
    distances = np.stack([found.distance[..., -1] for found, _ in costs])
    assert (distances[-1].max(axis=1) < distances[0].min(axis=1)).all()
    np.testing.assert_array_equal(plan.cost, distances.min(axis=(0, 2)))


def test_a_readout_of_another_model_is_refused():
    with pytest.raises(ValueError, match="readout: found one for 7 numbers per frame, expected 1 tokens · 64"):
        TorchBackend(make_model("lewm"), Readout(["x"], 7))


def test_a_small_model_steers_by_its_readout(tmp_path):
    """From fitting on imagined latents to a plan that reaches a value and keeps out of a region, saved in between."""
    model = make_model("lewm")
    plain = TorchBackend(model)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(1, 1, 64, 64, 3), dtype=np.uint8)
    start = plain.encode(frames)
    candidates = rng.normal(size=(1, 300, 3, 10)).astype(np.float32)
    with torch.no_grad():
        imagined = model.rollout(*map(torch.from_numpy, (start, np.empty((1, 0, 10), np.float32), candidates)))
    latents = imagined.flatten(0, 2).numpy()
    axes = np.linalg.svd(latents[:, 0] - latents[:, 0].mean(axis=0), full_matrices=False)[2][:2]
    values = latents[:, 0] @ axes.T  # what the model's imagination varies most in stands for a position
    fitted = fit_readout(latents, values, ["x", "y"])
    assert min(fitted.r2(latents, values).values()) > 0.99
    fitted.save(tmp_path / "readout.safetensors")
    backend = TorchBackend(model, Readout.load(tmp_path / "readout.safetensors"))
    assert backend.spec.readout == ("x", "y")

    ends = values.reshape(300, 3, 2)[:, -1]
    target = np.quantile(ends, 0.8, axis=0)
    radius = 0.4 * float(values.reshape(300, 3, 2)[:, 1].std())
    reach = ReachTargetConfig(names=("x", "y"), target=tuple(map(float, target)))

    def path(objective, solver):
        config = PlannerConfig(
            solver=solver,
            objective=objective,
            mpc=MPCConfig(horizon=3, execute_blocks=1),
            cem=CEMConfig(samples=100, elites=10, iterations=10),
            gradient=GradientConfig(samples=8, iterations=30),
        )
        planner = config.planner(backend)
        plan = planner.plan(planner.observe(frames), horizon=3, rngs=[np.random.default_rng(1)])
        scores = backend.score(start, np.empty((1, 0, 10), np.float32), plan.actions[:, None], 0 * start[:, 0])
        return scores.readout[0, 0]

    for solver in ("cem", "gradient"):
        direct = path(ObjectiveConfig(goal=0.0, reach=reach), solver)
        spread = np.linalg.norm(ends - target, axis=1).min()
        assert np.linalg.norm(direct[-1] - target) < spread, "random plans came as close"
        region = KeepOutConfig(names=("x", "y"), center=tuple(map(float, direct[1])), radius=radius, weight=10.0)
        around = path(ObjectiveConfig(goal=0.0, reach=reach, keep_out=(region,)), solver)
        assert np.linalg.norm(around[1] - direct[1]) > 0.99 * radius
        assert np.linalg.norm(around[-1] - target) < 2 * spread
