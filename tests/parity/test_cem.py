"""Our CEM against a recorded run of the reference rules, with the same noise."""

import numpy as np
import pytest

from jepakit.planning import CEM, CEMConfig, SearchSpace

ELITES = 8


class RecordedNoise:
    """Stands in for a generator: hands out the recorded noise, one iteration at a time."""

    def __init__(self, noise):
        self.remaining = iter(noise)

    def standard_normal(self, *, dtype, out):
        out[:] = next(self.remaining).reshape(out.shape)
        return out


@pytest.fixture
def recorded(fixtures_dir):
    with np.load(fixtures_dir / "cem.npz", allow_pickle=False) as file:
        return dict(file)


def test_every_iteration_and_the_plan_match_the_recording(recorded):
    goal, noise = recorded["goal"], recorded["noise"]
    iterations, samples, horizon, width = noise.shape
    cem = CEM(CEMConfig(samples=samples, elites=ELITES, iterations=iterations))
    unbounded = np.full(width, np.inf, np.float32)
    space = SearchSpace(horizon=horizon, frame_skip=1, low=-unbounded, high=unbounded)

    def cost(candidates):
        return np.square(candidates - goal).sum(axis=(2, 3))

    steps = list(cem.search(cost, space, rngs=[RecordedNoise(noise)]))
    solution = cem.solve(cost, space, rngs=[RecordedNoise(noise)])

    assert len(steps) == iterations
    np.testing.assert_allclose(np.concatenate([step.costs for step in steps]), recorded["costs"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([step.actions for step in steps]), recorded["means"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([step.std for step in steps]), recorded["stds"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(solution.actions[0], recorded["plan"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(solution.actions, steps[-1].actions)
