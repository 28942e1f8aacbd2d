import numpy as np
import pytest

from jepakit.planning import Gradient, GradientConfig, Planner, SearchSpace
from jepakit.planning.solver import DifferentiableCost

UNBOUNDED = np.full(2, np.inf, np.float32)
SPACE = SearchSpace(horizon=3, frame_skip=1, low=-UNBOUNDED, high=UNBOUNDED)


class Valley:
    """Differentiable, and badly scaled."""

    scale = np.geomspace(1e-2, 1e2, 6).astype(np.float32).reshape(3, 2)

    def __init__(self):
        self.asked = []

    def __call__(self, candidates):
        self.asked.append(candidates[0].copy())
        return (self.scale * np.square(candidates - 1.0)).sum(axis=(2, 3))

    def with_gradient(self, candidates):
        return self(candidates), 2 * self.scale * (candidates - 1.0)


def test_steps_are_adams():
    """Against the update written out for one start."""
    cost = Valley()
    Gradient(GradientConfig(samples=1, iterations=12, learning_rate=0.05)).solve(
        cost, SPACE, rngs=[np.random.default_rng(0)]
    )
    plan, m, v = np.zeros((3, 2)), 0.0, 0.0
    for t, (asked,) in enumerate(cost.asked, start=1):
        np.testing.assert_allclose(asked, plan, atol=1e-5)
        slope = 2 * Valley.scale * (plan - 1.0)
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        plan = plan - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def test_the_scale_of_a_direction_does_not_matter():
    solution = Gradient(GradientConfig(iterations=100)).solve(Valley(), SPACE, rngs=[np.random.default_rng(0)])
    np.testing.assert_allclose(solution.actions, 1.0, atol=0.05)


def test_the_answer_is_the_best_plan_seen():
    cost = Valley()
    solver = Gradient(GradientConfig(samples=4, iterations=20, learning_rate=1.0))  # it overshoots
    steps = list(solver.search(cost, SPACE, rngs=[np.random.default_rng(0)]))
    costs = np.concatenate([step.costs[0] for step in steps])
    np.testing.assert_array_equal(steps[-1].actions[0], np.concatenate(cost.asked)[costs.argmin()])
    assert steps[-1].cost[0] == costs.min()


def test_a_plan_that_walks_to_where_the_model_breaks_down_goes_back_and_creeps_to_the_edge():
    class Cliff(Valley):
        """The optimum is at 1; beyond 0.72 there is nothing."""

        def with_gradient(self, candidates):
            costs, gradients = super().with_gradient(candidates)
            outside = candidates.max(axis=(2, 3)) > 0.72
            return np.where(outside, np.float32(np.nan), costs), np.where(outside[..., None, None], np.nan, gradients)

    cost = Cliff()
    config = GradientConfig(samples=1, iterations=60, learning_rate=0.1)
    solution = Gradient(config).solve(cost, SPACE, rngs=[np.random.default_rng(0)])
    assert np.isfinite(cost.asked).all()
    assert solution.actions.max() <= np.float32(0.72)
    np.testing.assert_allclose(solution.actions, 0.72, atol=0.01)


def test_cost_functions_without_gradients_are_refused():
    def cost(candidates):
        return np.zeros(candidates.shape[:2], np.float32)

    assert not isinstance(cost, DifferentiableCost)
    with pytest.raises(TypeError, match="cost: found a function without gradients, expected a DifferentiableCost"):
        Gradient().solve(cost, SPACE, rngs=[np.random.default_rng(0)])


def test_backends_without_gradients_are_refused_before_anything_is_planned(toy):
    with pytest.raises(TypeError, match="found Gradient, which follows gradients, with ExactBackend, which has none"):
        Planner(toy.ExactBackend(), Gradient())
