import numpy as np
import pytest

from jepakit.planning import MPPI, MPPIConfig, SearchSpace
from jepakit.planning.mppi import path_weights

SPACE = SearchSpace(horizon=3, frame_skip=1, low=np.full(2, -np.inf, np.float32), high=np.full(2, np.inf, np.float32))


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_weights_are_a_softmax_of_the_costs(temperature):
    costs = np.random.default_rng(0).gamma(2.0, size=50).astype(np.float32)
    lambda_ = temperature * costs.astype(np.float64).std()
    expected = np.exp(-costs.astype(np.float64) / lambda_)
    np.testing.assert_allclose(path_weights(costs, temperature), expected / expected.sum(), rtol=1e-4, atol=1e-8)


def test_weights_do_not_depend_on_the_costs_unit():
    costs = np.random.default_rng(0).gamma(2.0, size=50).astype(np.float32)
    np.testing.assert_allclose(path_weights(1000 * costs + 5, 0.3), path_weights(costs, 0.3), rtol=1e-3, atol=1e-7)


def test_candidates_without_a_finite_cost_weigh_nothing():
    weights = path_weights(np.array([1.0, np.inf, 2.0, np.inf], np.float32), 1.0)
    assert weights[1] == weights[3] == 0
    np.testing.assert_allclose(weights[[0, 2]], path_weights(np.array([1.0, 2.0], np.float32), 1.0))
    np.testing.assert_array_equal(path_weights(np.array([3.0, np.inf, 3.0], np.float32), 0.1), [0.5, 0.0, 0.5])


def test_the_answer_is_the_weighted_mean_of_the_candidates():
    asked = []

    def cost(candidates):
        asked.append(candidates[0].copy())
        return np.square(candidates - 1.0).sum(axis=(2, 3))

    steps = list(
        MPPI(MPPIConfig(samples=50, iterations=3, temperature=0.5, std=0.7)).search(
            cost, SPACE, rngs=[np.random.default_rng(0)]
        )
    )
    mean = np.zeros((3, 2))
    for step, candidates in zip(steps, asked, strict=True):
        np.testing.assert_allclose(candidates[0], mean, atol=1e-6)
        noise = candidates[1:] - mean
        assert abs(noise.std() - 0.7) < 0.1
        weights = path_weights(step.costs[0], 0.5).astype(np.float64)
        mean = np.einsum("s,ska->ka", weights, candidates)
        np.testing.assert_allclose(step.actions[0], mean, atol=1e-5)
        np.testing.assert_allclose(step.cost[0], weights @ step.costs[0], rtol=1e-5)


def test_a_low_temperature_follows_the_best_candidate_alone():
    costs = np.array([3.0, 1.0, 2.0], np.float32)
    np.testing.assert_array_equal(path_weights(costs, 1e-3), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(path_weights(costs, 1e4), 1 / 3, rtol=1e-3)
