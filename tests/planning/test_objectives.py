import dataclasses

import numpy as np
import pytest

from jepakit.planning import (
    ActionPenalty,
    CEMConfig,
    GoalDistance,
    KeepOut,
    KeepOutConfig,
    ObjectiveConfig,
    Planner,
    PlannerConfig,
    PlannerSpec,
    RandomShooting,
    ReachTarget,
    ReachTargetConfig,
    Scores,
    SmoothnessPenalty,
    Solution,
    WeightedSum,
)
from jepakit.planning.solver import DifferentiableCost

NAMES = ("x", "y", "angle")
SPEC = PlannerSpec(
    image_size=4,
    history=3,
    frame_skip=3,
    action_dim=2,
    action_mean=np.linspace(-0.3, 0.2, 6, dtype=np.float32),
    action_std=np.linspace(0.5, 1.5, 6, dtype=np.float32),
    action_low=np.full(2, -np.inf, np.float32),
    action_high=np.full(2, np.inf, np.float32),
    tokens=1,
    width=2,
    readout=NAMES,
)
TARGET = ReachTargetConfig(names=("angle", "x"), target=(0.3, -0.5))
DISC = KeepOutConfig(names=("x", "y"), center=(0.2, 0.1), radius=1.4)
BOX = KeepOutConfig(names=("y", "x"), low=(-1.0, -0.5), high=(1.2, 1.5))
OBJECTIVES = {
    "goal last": GoalDistance(),
    "goal min": GoalDistance(steps="min"),
    "goal mean": GoalDistance(steps="mean"),
    "action": ActionPenalty(SPEC),
    "action standardised": ActionPenalty(SPEC, units="standardised"),
    "smoothness": SmoothnessPenalty(SPEC.action_dim),
    "reach last": ReachTarget(TARGET, NAMES),
    "reach min": ReachTarget(TARGET, NAMES, steps="min"),
    "reach mean": ReachTarget(TARGET, NAMES, steps="mean"),
    "disc": KeepOut(DISC, NAMES),
    "box": KeepOut(BOX, NAMES),
    "sum": WeightedSum(
        [
            (2.0, GoalDistance()),
            (0.5, SmoothnessPenalty(SPEC.action_dim)),
            (0.1, ActionPenalty(SPEC)),
            (3.0, KeepOut(DISC, NAMES)),
            (0.7, ReachTarget(TARGET, NAMES)),
        ]
    ),
}


def query(dtype=np.float32):
    """Scores and raw candidates of two environments, seven candidates, four blocks."""
    rng = np.random.default_rng(0)
    scores = Scores(
        distance=rng.gamma(2.0, size=(2, 7, 4)).astype(dtype), readout=rng.normal(size=(2, 7, 4, 3)).astype(dtype)
    )
    return scores, rng.normal(size=(2, 7, 4, 6)).astype(dtype)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_slopes_are_those_of_finite_differences(name):
    objective = OBJECTIVES[name]
    scores, candidates = query(np.float64)
    slope = objective.slope(scores, candidates)
    rng, step = np.random.default_rng(1), 1e-4
    for field in ("distance", "readout", "candidates"):
        point = candidates if field == "candidates" else getattr(scores, field)
        direction = rng.normal(size=point.shape)

        def cost(offset, field=field, point=point, direction=direction):
            moved = point + offset * direction
            if field == "candidates":
                return objective(scores, moved)
            return objective(dataclasses.replace(scores, **{field: moved}), candidates)

        expected = (cost(step) - cost(-step)) / (2 * step)
        found = getattr(slope, field)
        along = np.zeros(()) if found is None else (found * direction).sum(axis=tuple(range(2, found.ndim)))
        np.testing.assert_allclose(np.broadcast_to(along, expected.shape), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_cost_does_not_depend_on_the_other_environments(name):
    scores, candidates = query()
    together = OBJECTIVES[name](scores, candidates)
    assert together.shape == (2, 7)
    assert together.dtype == np.float32
    for b in range(2):
        alone = Scores(distance=scores.distance[b : b + 1], readout=scores.readout[b : b + 1])
        np.testing.assert_array_equal(OBJECTIVES[name](alone, candidates[b : b + 1])[0], together[b])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_goal_is_needed_where_its_distance_matters(name):
    scores, candidates = query()
    objective = OBJECTIVES[name]
    other = objective(dataclasses.replace(scores, distance=1 + scores.distance), candidates)
    assert objective.needs_goal == (other != objective(scores, candidates)).any()


def test_action_penalties_are_mean_squares():
    _, candidates = query()
    actions = candidates.astype(np.float64)
    standardised = (actions - SPEC.action_mean) / SPEC.action_std
    np.testing.assert_allclose(ActionPenalty(SPEC)(None, candidates), (actions**2).mean(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(
        ActionPenalty(SPEC, units="standardised")(None, candidates), (standardised**2).mean(axis=(2, 3)), rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"ActionPenalty.units: found 'metres', expected one of"):
        ActionPenalty(SPEC, units="metres")


def test_smoothness_is_about_consecutive_raw_actions_across_blocks():
    _, candidates = query()
    sequence = candidates.reshape(2, 7, 12, 2)  # four blocks of three raw actions
    expected = (np.diff(sequence, axis=2) ** 2).mean(axis=(2, 3))
    np.testing.assert_allclose(SmoothnessPenalty(2)(None, candidates), expected, rtol=1e-5)
    np.testing.assert_array_equal(SmoothnessPenalty(2)(None, np.ones((1, 3, 4, 6), np.float32)), 0.0)
    np.testing.assert_array_equal(SmoothnessPenalty(6)(None, candidates[:, :, :1]), 0.0)


def test_reaching_is_the_squared_distance_of_the_named_quantities():
    scores, candidates = query()
    distance = (scores.readout[..., 2] - 0.3) ** 2 + (scores.readout[..., 0] + 0.5) ** 2
    np.testing.assert_allclose(ReachTarget(TARGET, NAMES)(scores, candidates), distance[..., -1], rtol=1e-5)
    np.testing.assert_allclose(
        ReachTarget(TARGET, NAMES, steps="min")(scores, candidates), distance.min(axis=-1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "positions", "depths"),
    [
        (DISC, [(0.2, 0.1), (0.9, 0.1), (1.6, 0.1), (5.0, 5.0)], [1.0, 0.5, 0.0, 0.0]),
        # The box of x is −0.5 to 1.5 and of y −1.0 to 1.2.
        (BOX, [(0.5, 0.1), (1.0, 0.1), (0.5, 1.2), (1.0, 0.65), (0.5, 9.0)], [1.0, 0.5, 0.0, 0.5, 0.0]),
    ],
)
def test_keeping_out_costs_the_depth_at_every_step(config, positions, depths):
    readout = np.array([[*position, 0.0] for position in positions], np.float32)[None, None]
    scores = Scores(distance=np.zeros(readout.shape[:3], np.float32), readout=readout)
    np.testing.assert_allclose(KeepOut(config, NAMES)(scores, None), np.sum(depths), atol=1e-6)
    single = Scores(distance=scores.distance, readout=np.moveaxis(readout, 2, 1))
    np.testing.assert_allclose(KeepOut(config, NAMES)(single, None)[0], depths, atol=1e-6)


def test_quantities_that_cannot_be_read_cost_what_cannot_be_compared():
    scores, candidates = query()
    scores.readout[0, 0] = np.nan
    for objective in (KeepOut(DISC, NAMES), KeepOut(BOX, NAMES), ReachTarget(TARGET, NAMES)):
        assert np.isnan(objective(scores, candidates)[0, 0])


def test_a_sum_is_weighted():
    scores, candidates = query()
    total = WeightedSum([(2.0, OBJECTIVES["disc"]), (0.5, OBJECTIVES["action"])])
    expected = 2.0 * OBJECTIVES["disc"](scores, candidates) + 0.5 * OBJECTIVES["action"](scores, candidates)
    np.testing.assert_allclose(total(scores, candidates), expected, rtol=1e-6)
    assert total.describe()["terms"][1] == {"weight": 0.5, "name": "action_penalty", "units": "raw"}
    for weights in ([], [0.0], [1.0, -1.0], [np.nan]):
        with pytest.raises(ValueError, match=r"WeightedSum: found weights \["):
            WeightedSum([(weight, GoalDistance()) for weight in weights])


def test_the_configuration_builds_the_sum():
    assert ObjectiveConfig().objective(SPEC) == GoalDistance()
    objective = ObjectiveConfig(
        steps="mean",
        goal=0.5,
        action_penalty=0.1,
        action_units="standardised",
        smoothness_penalty=0.2,
        reach=dataclasses.replace(TARGET, weight=3.0),
        keep_out=(DISC, dataclasses.replace(BOX, weight=7.0)),
    ).objective(SPEC)
    described = [(term["weight"], term["name"], term.get("steps")) for term in objective.describe()["terms"]]
    assert described == [
        (0.5, "goal_distance", "mean"),
        (0.1, "action_penalty", None),
        (0.2, "smoothness_penalty", None),
        (3.0, "reach_target", "mean"),
        (1.0, "keep_out", None),
        (7.0, "keep_out", None),
    ]
    assert objective.needs_goal
    assert not ObjectiveConfig(goal=0.0, reach=TARGET).objective(SPEC).needs_goal


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ObjectiveConfig(steps="first"), "ObjectiveConfig.steps: found 'first'"),
        (lambda: ObjectiveConfig(action_penalty=-1.0), "ObjectiveConfig.action_penalty: found -1.0"),
        (lambda: ObjectiveConfig(goal=0.0, action_penalty=1.0), "ObjectiveConfig.goal: found 0 without reach"),
        (lambda: ReachTargetConfig(names=("x",), target=(1.0, 2.0)), r"ReachTargetConfig.target: found \[1.0, 2.0\]"),
        (lambda: ReachTargetConfig(names=(), target=()), "ReachTargetConfig.target: found"),
        (lambda: ReachTargetConfig(names=("x",), target=(np.nan,)), "ReachTargetConfig.target: found"),
        (lambda: ReachTargetConfig(names=("x",), target=(0.0,), weight=0.0), "ReachTargetConfig.weight: found 0.0"),
        (lambda: KeepOutConfig(names=("x",)), r"KeepOutConfig: found \[\], expected either center and radius"),
        (lambda: KeepOutConfig(names=("x",), center=(0.0,), low=(0.0,)), r"found \['center', 'low'\]"),
        (lambda: KeepOutConfig(names=("x",), center=(0.0,), radius=0.0), "KeepOutConfig.radius: found 0.0"),
        (lambda: KeepOutConfig(names=("x",), low=(0.0,), high=(0.0,)), "KeepOutConfig.low: found"),
        (lambda: ReachTarget(TARGET, ("x", "y")), r"ReachTargetConfig.names: found \['angle'\], expected some of"),
        (lambda: KeepOut(DISC, ()), r"KeepOutConfig.names: found \['x', 'y'\], expected some of \[\]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def plan(toy, objective, *, horizon=5):
    """Plan for a point at rest in (0, 0); return the positions after every block."""
    world = toy.PointMass()
    backend = toy.DifferentiableBackend()
    config = PlannerConfig(cem=CEMConfig(samples=200, elites=20, iterations=15), objective=objective, bounded=True)
    planner = config.planner(backend)
    frame = world.picture([0.0, 0.0])[None]
    goal = planner.encode_goal(world.picture([6.0, 0.0])[None]) if planner.objective.needs_goal else None
    rngs = [np.random.default_rng(0)]
    found = planner.plan(planner.observe(frame[None]), goal, horizon=horizon, rngs=rngs)
    return toy.SPEED * np.cumsum(found.actions.reshape(horizon, toy.SKIP, 2).sum(axis=1), axis=0), found


def test_the_solver_is_given_slopes_in_its_own_units(toy):
    """Of all parts of the objective, with respect to standardised actions, against finite differences."""
    objective = ObjectiveConfig(
        action_penalty=0.3, smoothness_penalty=2.0, reach=ReachTargetConfig(names=("y",), target=(1.0,))
    )
    planner = PlannerConfig(objective=objective).planner(toy.DifferentiableBackend())
    costs = []

    class Probe:
        needs_gradients = True

        def solve(self, cost, space, *, rngs, initial=None, deadline=None):
            assert isinstance(cost, DifferentiableCost)
            rng = np.random.default_rng(0)
            point, direction = (rng.uniform(-1, 1, size=(1, 6, 3, 10)).astype(np.float32) for _ in range(2))
            value, gradient = cost.with_gradient(point)
            np.testing.assert_array_equal(value, cost(point))
            step = np.float32(0.01)
            costs.append((cost(point + step * direction) - cost(point - step * direction)) / (2 * step))
            costs.append((gradient * direction).sum(axis=(2, 3)))
            return Solution(
                actions=point[:, 0], cost=value[:, 0], iterations=1, stop="iterations", guesses=point[:, :1]
            )

    planner.solver = Probe()
    world = toy.PointMass()
    goal = planner.encode_goal(world.picture([1.0, 2.0])[None])
    planner.plan(planner.observe(world.render()[None, None]), goal, horizon=3, rngs=[np.random.default_rng(0)])
    np.testing.assert_allclose(*costs, rtol=0.01, atol=0.01)


def test_a_target_needs_no_goal_picture(toy):
    path, _ = plan(toy, ObjectiveConfig(goal=0.0, reach=ReachTargetConfig(names=("y", "x"), target=(-2.0, 3.0))))
    np.testing.assert_allclose(path[-1], [3.0, -2.0], atol=0.1)


def test_a_goal_picture_is_asked_for_where_it_is_needed(toy):
    planner = Planner(toy.ExactBackend(), RandomShooting())
    seen = planner.observe(toy.PointMass().render()[None, None])
    with pytest.raises(ValueError, match="goal: found None, expected latents"):
        planner.plan(seen, horizon=2, rngs=[np.random.default_rng(0)])


def test_the_plan_keeps_out_of_a_disc_on_its_way(toy):
    direct, _ = plan(toy, ObjectiveConfig())
    region = KeepOutConfig(names=("x", "y"), center=(3.0, 0.1), radius=1.5, weight=100.0)
    around, _ = plan(toy, ObjectiveConfig(keep_out=(region,)))
    center = np.array([3.0, 0.1])
    assert np.linalg.norm(direct - center, axis=1).min() < 1.4
    assert np.linalg.norm(around - center, axis=1).min() >= 1.5
    np.testing.assert_allclose(around[-1], [6.0, 0.0], atol=0.3)


def test_penalties_make_plans_smoother_and_smaller(toy):
    _, plain = plan(toy, ObjectiveConfig())
    _, smooth = plan(toy, ObjectiveConfig(smoothness_penalty=5.0))
    _, small = plan(toy, ObjectiveConfig(action_penalty=50.0))
    scores = Scores(distance=np.zeros((1, 1, 5), np.float32))
    roughness, effort = SmoothnessPenalty(2), ActionPenalty(toy.ExactBackend().spec)
    assert roughness(scores, smooth.actions[:, None]) < 0.5 * roughness(scores, plain.actions[:, None])
    assert effort(scores, small.actions[:, None]) < 0.9 * effort(scores, plain.actions[:, None])
