import numpy as np
import pytest

from jepakit.planning import ICEM, ICEMConfig, MPCConfig, MPCPolicy, Planner, SearchSpace
from jepakit.planning.noise import correlation

HORIZON, WIDTH = 4, 2
SPACE = SearchSpace(
    horizon=HORIZON, frame_skip=1, low=np.full(WIDTH, -np.inf, np.float32), high=np.full(WIDTH, np.inf, np.float32)
)


def run(config, *, initial=None, seed=0):
    """All iterations and the candidates of each, towards one target."""
    target = np.random.default_rng(5).normal(size=(HORIZON, WIDTH)).astype(np.float32)
    asked = []

    def cost(candidates):
        asked.append(candidates[0].copy())
        return np.square(candidates - target).sum(axis=(2, 3))

    steps = list(ICEM(config).search(cost, SPACE, rngs=[np.random.default_rng(seed)], initial=initial))
    return steps, asked


def test_the_population_shrinks_to_twice_the_elites():
    _, asked = run(ICEMConfig(samples=40, elites=8, iterations=6, shrink=1.5))
    assert [len(candidates) for candidates in asked] == [40, 27, 18, 16, 16, 16]
    assert ICEM(ICEMConfig(samples=10, elites=8)).count(3) == 10


def test_the_best_elites_are_candidates_again():
    steps, asked = run(ICEMConfig(samples=40, elites=10, iterations=4, kept=0.3))
    for step, before, after in zip(steps, asked, asked[1:], strict=False):
        best = before[np.argsort(step.costs[0], kind="stable")[:3]]
        np.testing.assert_array_equal(after[:3], best)
        np.testing.assert_array_equal(step.guesses[0, 1:], best)
    _, without = run(ICEMConfig(samples=40, elites=10, iterations=4, kept=0.0))
    assert not (without[1][:3] == asked[1][:3]).all(axis=(1, 2)).any()


def test_mean_and_std_keep_a_share_of_the_old_ones():
    alpha = 0.25
    steps, asked = run(ICEMConfig(samples=40, elites=10, iterations=2, momentum=alpha))
    mean, std = np.zeros((HORIZON, WIDTH)), np.ones((HORIZON, WIDTH))
    for step, candidates in zip(steps, asked, strict=True):
        elites = candidates[np.argsort(step.costs[0])[:10]]
        mean = alpha * mean + (1 - alpha) * elites.mean(axis=0)
        std = alpha * std + (1 - alpha) * elites.std(axis=0, ddof=1)
        np.testing.assert_allclose(step.guesses[0, 0], mean, atol=1e-6)
        np.testing.assert_allclose(step.std[0], std, atol=1e-6)


def test_the_mean_is_a_candidate_in_the_last_iteration_only():
    steps, asked = run(ICEMConfig(samples=40, elites=10, iterations=4))
    means = [step.guesses[0, 0] for step in steps]
    tried = [(candidates == mean).all(axis=(1, 2)).any() for mean, candidates in zip(means, asked[1:], strict=False)]
    assert tried == [False, False, True]


def test_the_answer_is_the_best_candidate_of_all():
    steps, asked = run(ICEMConfig(samples=40, elites=10, iterations=4))
    costs = np.concatenate([step.costs[0] for step in steps])
    best = np.concatenate(asked)[costs.argmin()]
    np.testing.assert_array_equal(steps[-1].actions[0], best)
    assert steps[-1].cost[0] == costs.min()


def test_noise_is_coloured_in_time():
    config = ICEMConfig(samples=4000, elites=10, iterations=1, noise_exponent=2.0)
    _, (candidates,) = run(config)
    drawn = candidates[1:]
    np.testing.assert_allclose(drawn.std(axis=0), 1.0, atol=0.05)
    measured = np.cov(drawn[:, :, 0], rowvar=False)
    np.testing.assert_allclose(measured, correlation(HORIZON, 2.0), atol=0.06)
    assert abs((drawn[:, 0, 0] * drawn[:, 0, 1]).mean()) < 0.05


def test_elites_and_mean_are_shifted_into_the_next_plan(toy):
    solver = ICEM(ICEMConfig(samples=40, elites=10, iterations=2))
    policy = MPCPolicy(
        Planner(toy.ExactBackend(), solver, bounded=True), MPCConfig(horizon=5, execute_blocks=2, warm_start=True)
    )
    plans = []
    plan = policy.planner.plan
    policy.planner.plan = lambda *args, **options: plans.append(plan(*args, **options)) or plans[-1]
    world = toy.PointMass()
    goal = np.array([5.0, 4.0])
    assignment = toy.assign(world, goal)
    policy.reset([assignment], budget=50)
    for _ in range(2 * toy.SKIP + 1):
        world.advance(policy.act([world], [0])[0])
    first, _ = plans
    tried = policy.planner.backend.scored[2][2][0]
    assert first.guesses.shape == (1, 4, 5, 10)
    np.testing.assert_allclose(tried[:4, :3], first.guesses[0, :, 2:], atol=1e-6)
    mean = policy.planner.backend.spec.action_mean
    np.testing.assert_allclose(tried[:4, 3:], np.broadcast_to(mean, (4, 2, 10)), atol=1e-6)


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_extreme_shares_of_elites_work(kept):
    steps, _ = run(ICEMConfig(samples=20, elites=10, iterations=3, kept=kept))
    assert steps[-1].guesses.shape[1] == 1 + round(10 * kept)
