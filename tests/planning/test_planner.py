from types import SimpleNamespace

import numpy as np
import pytest

from jepakit.planning import CEM, CEMConfig, GoalDistance, Planner, PlannerConfig, PlannerSpec, Scores

STEP_COSTS = np.array([[[3.0, 1.0, 2.0], [4.0, 2.0, 1.5]]], np.float32)


def observe(planner, toy, positions):
    world = toy.PointMass()
    return planner.observe(np.stack([world.picture(position)[None] for position in positions]))


def goals(planner, toy, positions):
    world = toy.PointMass()
    return planner.encode_goal(np.stack([world.picture(position) for position in positions]))


def generators(count, first=0):
    return [np.random.default_rng([3, first + index]) for index in range(count)]


def test_plans_reach_the_goal_in_raw_units(toy):
    planner = Planner(toy.ExactBackend(), CEM(CEMConfig(iterations=10)), bounded=True)
    start, goal = np.array([[0.0, 0.0], [1.0, -2.0]]), np.array([[3.0, -4.0], [-5.0, 2.0]])
    plan = planner.plan(observe(planner, toy, start), goals(planner, toy, goal), horizon=5, rngs=generators(2))
    assert plan.actions.shape == (2, 5, 10)
    assert plan.actions.dtype == np.float32
    moved = toy.SPEED * np.clip(plan.actions.reshape(2, -1, 2), -1, 1).sum(axis=1)
    np.testing.assert_allclose(start + moved, goal, atol=0.3)


@pytest.mark.parametrize("batch", [1, 16])
def test_the_backend_sees_raw_actions_of_the_standardised_noise(toy, batch):
    planner = Planner(toy.ExactBackend(), CEM(CEMConfig(samples=20, elites=4, iterations=1)))
    positions = np.zeros((batch, 2))
    planner.plan(observe(planner, toy, positions), goals(planner, toy, positions), horizon=3, rngs=generators(batch))
    spec = planner.backend.spec
    candidates = planner.backend.scored[0][2]
    for b, rng in enumerate(generators(batch)):
        noise = rng.standard_normal((20, 3, 10), dtype=np.float32)
        np.testing.assert_array_equal(candidates[b, 1:], (noise * spec.action_std + spec.action_mean)[1:])
        np.testing.assert_array_equal(candidates[b, 0], np.broadcast_to(spec.action_mean, (3, 10)))


def test_bounded_plans_stay_within_the_raw_bounds_to_the_last_bit(toy):
    planner = Planner(toy.ExactBackend(), CEM(CEMConfig(samples=100, elites=10, iterations=8)), bounded=True)
    far = np.array([[50.0, -50.0]])
    plan = planner.plan(observe(planner, toy, 0 * far), goals(planner, toy, far), horizon=5, rngs=generators(1))
    seen = np.stack([candidates for _, _, candidates, _ in planner.backend.scored])
    for actions in (seen, plan.actions):
        assert actions.max() <= 1.0
        assert actions.min() >= -1.0
    assert (seen == 1.0).any()


def test_a_plan_does_not_depend_on_the_batch(toy):
    positions = np.random.default_rng(0).normal(size=(16, 2))
    targets = positions[::-1] + 2.0
    together = Planner(toy.ExactBackend(), CEM(CEMConfig(samples=50, elites=5, iterations=5)))
    plan = together.plan(
        observe(together, toy, positions), goals(together, toy, targets), horizon=4, rngs=generators(16)
    )
    for index in range(16):
        alone = Planner(toy.ExactBackend(), CEM(CEMConfig(samples=50, elites=5, iterations=5)))
        single = alone.plan(
            observe(alone, toy, positions[index : index + 1]),
            goals(alone, toy, targets[index : index + 1]),
            horizon=4,
            rngs=generators(1, first=index),
        )
        np.testing.assert_array_equal(single.actions[0], plan.actions[index])


def test_a_warm_start_is_given_in_raw_units(toy):
    planner = Planner(toy.ExactBackend(), CEM(CEMConfig(samples=20, elites=4, iterations=1)), bounded=True)
    initial = np.random.default_rng(0).uniform(-0.9, 0.9, size=(1, 3, 10)).astype(np.float32)
    here = np.zeros((1, 2))
    planner.plan(observe(planner, toy, here), goals(planner, toy, here), horizon=3, rngs=generators(1), initial=initial)
    np.testing.assert_allclose(planner.backend.scored[0][2][0, 0], initial[0], atol=1e-6)


def test_objectives_reduce_the_steps():
    candidates = np.zeros((1, 2, 3, 4), np.float32)
    for steps, expected in {"last": [2.0, 1.5], "min": [1.0, 1.5], "mean": [2.0, 2.5]}.items():
        np.testing.assert_array_equal(GoalDistance(steps=steps)(Scores(distance=STEP_COSTS), candidates), [expected])
    with pytest.raises(ValueError, match=r"GoalDistance.steps: found 'first'"):
        GoalDistance(steps="first")


def test_the_objective_decides_what_the_solver_minimises(toy):
    def closest(steps):
        planner = Planner(toy.ExactBackend(), CEM(CEMConfig(iterations=10)), GoalDistance(steps=steps), bounded=True)
        here, near = np.zeros((1, 2)), np.full((1, 2), 1.5)
        plan = planner.plan(observe(planner, toy, here), goals(planner, toy, near), horizon=5, rngs=generators(1))
        path = toy.SPEED * np.cumsum(plan.actions.reshape(5, 5, 2).sum(axis=1), axis=0)
        return np.linalg.norm(path - near, axis=1)

    assert closest("mean").mean() < 0.8 * closest("last").mean()
    assert closest("last")[-1] < 0.3


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 1, 5, 4, 3), np.uint8), r"found uint8 of shape \(1, 1, 5, 4, 3\), expected uint8 of shape"),
        (np.zeros((1, 1, 4, 4, 3), np.float32), "found float32"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"found uint8 of shape \(1, 4, 4, 3\)"),
    ],
)
def test_frames_that_do_not_fit_are_refused(toy, frames, message):
    with pytest.raises(ValueError, match=message):
        Planner(toy.ExactBackend(), CEM()).observe(frames)


def test_observations_that_do_not_fit_are_refused(toy):
    planner = Planner(toy.ExactBackend(), CEM())
    frames = np.zeros((1, 4, toy.SIZE, toy.SIZE, 3), np.uint8)
    goal = planner.encode_goal(frames[:, 0])
    blocks = np.zeros((1, 3, 10), np.float32)
    with pytest.raises(ValueError, match=r"observation: found 4 frames, expected 1 to 3"):
        planner.plan(planner.observe(frames, blocks), goal, horizon=2, rngs=generators(1))
    with pytest.raises(ValueError, match=r"past_actions: found shape \(1, 2, 9\), expected \(1, 2, 10\)"):
        planner.plan(planner.observe(frames[:, :3], blocks[:, :2, :9]), goal, horizon=2, rngs=generators(1))
    with pytest.raises(ValueError, match=r"past_actions: found shape \(1, 0, 10\), expected \(1, 1, 10\)"):
        planner.plan(planner.observe(frames[:, :2]), goal, horizon=2, rngs=generators(1))
    with pytest.raises(ValueError, match=r"goal: found shape \(1, 1, 2\), expected \(2, 1, 2\)"):
        planner.plan(planner.observe(np.repeat(frames[:, :1], 2, 0)), goal, horizon=2, rngs=generators(2))


def spec(**changes):
    values = {
        "image_size": 4,
        "history": 3,
        "frame_skip": 2,
        "action_dim": 1,
        "action_mean": np.zeros(2, np.float32),
        "action_std": np.ones(2, np.float32),
        "action_low": np.full(1, -np.inf, np.float32),
        "action_high": np.full(1, np.inf, np.float32),
        "tokens": 1,
        "width": 2,
    }
    return PlannerSpec(**{**values, **changes})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("history", 0),
        ("action_mean", np.zeros(1, np.float32)),
        ("action_mean", np.zeros(2)),
        ("action_std", np.zeros(2, np.float32)),
        ("action_std", np.full(2, np.nan, np.float32)),
        ("action_low", np.full(1, np.nan, np.float32)),
        ("action_low", np.full(2, 0.0, np.float32)),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(field, value):
    assert spec().block_width == 2
    with pytest.raises(ValueError, match=f"PlannerSpec.{field}: found"):
        spec(**{field: value})


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"PlannerSpec.action_low: found \[1.0\], expected at most action_high"):
        spec(action_low=np.ones(1, np.float32), action_high=np.zeros(1, np.float32))


def test_bounded_planning_needs_bounds(toy):
    backend = toy.ExactBackend()
    backend.spec = spec()
    with pytest.raises(ValueError, match=r"Planner.bounded: found action bounds \[-inf\] to \[inf\]"):
        Planner(backend, CEM(), bounded=True)


def test_a_published_planner_that_asks_a_controller_is_not_taken_for_a_search(toy, monkeypatch):
    bundle = SimpleNamespace(planner_config=PlannerConfig(proposals=True))
    monkeypatch.setattr("jepakit.export.bundle.Bundle.from_pretrained", lambda *_, **__: bundle)
    with pytest.raises(ValueError, match=r"org/x: found a planner that asks a controller.*policy\(backend\)"):
        Planner.from_pretrained("org/x")
