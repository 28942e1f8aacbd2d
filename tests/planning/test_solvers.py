"""What all solvers promise, each of them tried."""

import numpy as np
import pytest

from jepakit.planning import (
    CEM,
    ICEM,
    MPPI,
    CEMConfig,
    Gradient,
    GradientConfig,
    ICEMConfig,
    MPPIConfig,
    Planner,
    RandomShooting,
    RandomShootingConfig,
    SearchSpace,
)
from jepakit.planning import search as search_module

HORIZON, SKIP, WIDTH = 3, 2, 4
SOLVERS = {
    "cem": lambda **settings: CEM(CEMConfig(**{"samples": 60, "elites": 8, "iterations": 8, **settings})),
    "icem": lambda **settings: ICEM(
        ICEMConfig(**{"samples": 60, "elites": 8, "iterations": 8, "noise_exponent": 0.0, **settings})
    ),
    "mppi": lambda **settings: MPPI(MPPIConfig(**{"samples": 60, "iterations": 8, **settings})),
    "random_shooting": lambda **settings: RandomShooting(
        RandomShootingConfig(**{"samples": 60, "iterations": 8, **settings})
    ),
    "gradient": lambda **settings: Gradient(GradientConfig(**{"samples": 6, "iterations": 40, **settings})),
}
every_solver = pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)


class Quadratic:
    """Squared distance to one target (K, A) per environment; keeps what it was asked."""

    def __init__(self, targets):
        self.targets = targets
        self.asked = []

    def __call__(self, candidates):
        self.asked.append(candidates.copy())
        return np.square(candidates - self.targets[:, None]).sum(axis=(2, 3))

    def with_gradient(self, candidates):
        return self(candidates), 2 * (candidates - self.targets[:, None])


class Clock:
    """Every call of the cost takes a second; see ``Solver.solve``'s deadline."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(search_module, "monotonic", lambda: self.now)

    def slow(self, cost):
        clock = self

        class Slow(Quadratic):
            def __call__(self, candidates):
                clock.now += 1.0
                return super().__call__(candidates)

        return Slow(cost.targets)


def space(bound=np.inf):
    limit = np.full(WIDTH, bound, np.float32)
    return SearchSpace(horizon=HORIZON, frame_skip=SKIP, low=-limit, high=limit)


def generators(count, first=0):
    return [np.random.default_rng([7, first + index]) for index in range(count)]


def away(actions, targets):
    return np.square(actions - targets).sum(axis=(1, 2))


@pytest.fixture
def targets():
    return np.random.default_rng(1).normal(scale=0.8, size=(6, HORIZON, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "left"), [("cem", 0.05), ("icem", 0.2), ("mppi", 0.2), ("random_shooting", 1.0), ("gradient", 0.01)]
)
def test_it_comes_closer_to_the_optimum(targets, name, left):
    solution = SOLVERS[name]().solve(Quadratic(targets), space(), rngs=generators(6))
    assert (away(solution.actions, targets) < left * away(0 * targets, targets)).all()
    assert solution.stop == "iterations"


@every_solver
@pytest.mark.parametrize("settings", [{}, {"noise_exponent": 1.0, "tolerance": 0.1, "iterations": 60}])
def test_a_plan_does_not_depend_on_the_batch(targets, make, settings):
    together = make(**settings).solve(Quadratic(targets), space(1.0), rngs=generators(6))
    iterations = set()
    for b in range(6):
        some = slice(b, b + 1)
        rngs = generators(1, first=b)
        alone = make(**settings).solve(Quadratic(targets[some]), space(1.0), rngs=rngs)
        for field in ("actions", "cost", "guesses"):
            np.testing.assert_array_equal(getattr(alone, field)[0], getattr(together, field)[b])
        iterations.add(alone.iterations)
    if settings:
        assert len(iterations) > 1, "environments that converge together prove nothing"
        assert together.stop == "converged"
        assert together.iterations == max(iterations)


@every_solver
def test_a_generator_is_used_as_if_its_environment_were_alone(targets, make):
    """Or the *next* plan would depend on the batch."""
    together = generators(6)
    make(tolerance=0.1, iterations=60).solve(Quadratic(targets), space(), rngs=together)
    for b, used in enumerate(together):
        (alone,) = generators(1, first=b)
        make(tolerance=0.1, iterations=60).solve(Quadratic(targets[b : b + 1]), space(), rngs=[alone])
        assert alone.random() == used.random()


@every_solver
def test_everything_stays_within_the_bounds(targets, make):
    cost = Quadratic(4.0 * targets[:2])
    outside = np.full((2, 2, HORIZON, WIDTH), 5.0, np.float32)
    solution = make().solve(cost, space(0.5), rngs=generators(2), initial=outside)
    asked = np.concatenate([candidates.ravel() for candidates in cost.asked])
    assert np.abs(asked).max() == np.float32(0.5)
    assert np.abs(solution.actions).max() <= np.float32(0.5)
    assert np.abs(solution.guesses).max() <= np.float32(0.5)


@every_solver
def test_guesses_are_tried_first(targets, make):
    cost = Quadratic(targets[:2])
    guesses = np.random.default_rng(2).normal(size=(2, 3, HORIZON, WIDTH)).astype(np.float32)
    make(iterations=1).solve(cost, space(), rngs=generators(2), initial=guesses)
    np.testing.assert_array_equal(cost.asked[0][:, :3], guesses)


@every_solver
def test_a_warm_start_helps(targets, make):
    near = targets + np.float32(0.1)
    cold = make(iterations=2).solve(Quadratic(targets), space(), rngs=generators(6))
    warm = make(iterations=2).solve(Quadratic(targets), space(), rngs=generators(6), initial=near)
    assert (away(warm.actions, targets) < away(cold.actions, targets)).all()


@every_solver
def test_the_answer_is_the_best_plan_when_the_deadline_passes(targets, make, monkeypatch):
    clock = Clock(monkeypatch)
    cost = clock.slow(Quadratic(targets))
    solution = make().solve(cost, space(), rngs=generators(6), deadline=clock.now + 2.5)
    assert (solution.iterations, solution.stop) == (3, "deadline")
    whole = list(make().search(Quadratic(targets), space(), rngs=generators(6)))
    np.testing.assert_array_equal(solution.actions, whole[2].actions)


@every_solver
def test_the_first_iteration_always_runs(targets, make, monkeypatch):
    clock = Clock(monkeypatch)
    solution = make().solve(clock.slow(Quadratic(targets)), space(), rngs=generators(6), deadline=clock.now - 50)
    assert (solution.iterations, solution.stop) == (1, "deadline")


@every_solver
def test_it_stops_when_the_cost_no_longer_falls(targets, make):
    patient = make(iterations=80).solve(Quadratic(targets), space(), rngs=generators(6))
    hasty = make(iterations=80, tolerance=0.05).solve(Quadratic(targets), space(), rngs=generators(6))
    assert (patient.iterations, patient.stop) == (80, "iterations")
    assert hasty.stop == "converged"
    assert search_module.PATIENCE < hasty.iterations < 80


def test_a_cost_may_rest_between_two_falls():
    """The first iteration's costs have a standard deviation of 5, so that falls of more than 0.5 count."""

    class Scripted(search_module.Search):
        def propose(self, out):
            out[:] = 0.0

        def learn(self, scored):
            self.cost = next(script)

    class Solver(search_module.IterativeSolver):
        def begin(self, sampler, centre):
            return Scripted(sampler, centre)

    def cost(candidates):
        return np.array([[0.0, 10.0]], np.float32)

    script = iter([9.0, 8.0, 8.0, 8.0, 7.0, 7.0, 7.0, 6.6, 0.0, 0.0])
    solver = Solver(search_module.SearchConfig(samples=2, iterations=10, tolerance=0.1))
    solution = solver.solve(cost, space(), rngs=generators(1))
    assert (solution.stop, solution.iterations) == ("converged", 8)


@every_solver
def test_equal_costs_have_converged(make):
    class Flat(Quadratic):
        def __call__(self, candidates):
            return np.ones(candidates.shape[:2], np.float32)

        def with_gradient(self, candidates):
            return self(candidates), np.zeros_like(candidates)

    solution = make(tolerance=1e-6).solve(Flat(None), space(1.0), rngs=generators(2))
    assert (solution.stop, solution.iterations) == ("converged", search_module.PATIENCE + 1)


@every_solver
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_candidates_without_a_finite_cost_lose(targets, make, bad):
    class Broken(Quadratic):
        """Where the first action is positive, the model breaks down; the optimum is there."""

        def __call__(self, candidates):
            costs = super().__call__(candidates)
            costs[candidates[:, :, 0, 0] > 0] = bad
            return costs

        def with_gradient(self, candidates):
            costs, gradients = super().with_gradient(candidates)
            gradients[~np.isfinite(costs)] = bad
            return costs, gradients

    optimum = np.abs(targets[:2])
    solution = make().solve(Broken(optimum), space(), rngs=generators(2), initial=-optimum)
    assert np.isfinite(solution.cost).all()
    assert (solution.actions[:, 0, 0] <= 0).all()


@every_solver
def test_no_finite_cost_at_all_is_refused(targets, make):
    cost = Quadratic(np.full_like(targets[:1], np.nan))
    with pytest.raises(ValueError, match=r"costs of environment 0: found 0 finite values of \d+, expected at least"):
        make().solve(cost, space(), rngs=generators(1))


@every_solver
def test_costs_of_the_wrong_shape_are_refused(make):
    class Wrong(Quadratic):
        def __call__(self, candidates):
            return np.zeros((1, 5), np.float32)

    with pytest.raises(ValueError, match=r"costs: found shape \(1, 5\), expected \(B, S\) = \(1, "):
        make().solve(Wrong(np.zeros((1, HORIZON, WIDTH), np.float32)), space(), rngs=generators(1))


@every_solver
def test_its_description_is_its_name_and_settings(make):
    described = make(iterations=17).describe()
    assert described["name"] in SOLVERS
    assert described["iterations"] == 17


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (CEMConfig, "samples", 0),
        (CEMConfig, "tolerance", -0.1),
        (ICEMConfig, "elites", 1),
        (ICEMConfig, "kept", 1.5),
        (ICEMConfig, "shrink", 0.5),
        (ICEMConfig, "momentum", 1.0),
        (MPPIConfig, "temperature", 0.0),
        (MPPIConfig, "std", 0.0),
        (MPPIConfig, "noise_exponent", 9.0),
        (RandomShootingConfig, "iterations", 0),
        (GradientConfig, "learning_rate", 0.0),
    ],
)
def test_impossible_settings_are_refused(config, field, value):
    with pytest.raises(ValueError, match=f"{config.__name__}.{field}: found {value}, expected"):
        config(**{field: value})


@every_solver
def test_it_plans_in_the_world_of_the_point(toy, make):
    world = toy.PointMass()
    start, goal = np.array([[0.0, 0.0], [1.0, -2.0]]), np.array([[3.0, -2.0], [-1.0, 1.0]])
    planner = Planner(toy.DifferentiableBackend(), make(noise_exponent=2.0), bounded=True)
    plan = planner.plan(
        planner.observe(np.stack([world.picture(state)[None] for state in start])),
        planner.encode_goal(np.stack([world.picture(state) for state in goal])),
        horizon=4,
        rngs=generators(2),
    )
    assert np.abs(plan.actions).max() <= 1.0
    end = start + toy.SPEED * plan.actions.reshape(2, -1, 2).sum(axis=1)
    assert (np.linalg.norm(end - goal, axis=1) < 0.15 * np.linalg.norm(start - goal, axis=1)).all()
