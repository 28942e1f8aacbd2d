import numpy as np
import pytest

from jepakit.planning import CEM, CEMConfig, SearchSpace
from jepakit.planning.noise import colouring, correlation

HORIZON, SKIP, WIDTH = 5, 5, 10


def space(bound=np.inf):
    limit = np.full(WIDTH, bound, np.float32)
    return SearchSpace(horizon=HORIZON, frame_skip=SKIP, low=-limit, high=limit)


def generators(count, first=0):
    return [np.random.default_rng([7, first + index]) for index in range(count)]


def quadratic(targets):
    """Squared distance to one target (K, A) per environment."""
    return lambda candidates: np.square(candidates - targets[:, None]).sum(axis=(2, 3))


@pytest.fixture
def targets():
    return np.random.default_rng(1).normal(scale=0.8, size=(16, HORIZON, WIDTH)).astype(np.float32)


def test_finds_the_minimum_of_a_quadratic(targets):
    solution = CEM().solve(quadratic(targets[:2]), space(), rngs=generators(2))
    assert solution.iterations == 30
    # 50 dimensions and 30 elites of 300: the paper's budget ends near, not at, the optimum.
    before = np.square(targets[:2]).sum(axis=(1, 2))
    after = np.square(solution.actions - targets[:2]).sum(axis=(1, 2))
    assert (after < 0.02 * before).all()
    assert (solution.cost < 0.03 * before).all()


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_a_plan_does_not_depend_on_the_batch(targets, exponent):
    cem = CEM(CEMConfig(samples=100, elites=10, iterations=8, noise_exponent=exponent))
    together = cem.solve(quadratic(targets), space(1.0), rngs=generators(16))
    for index in range(16):
        alone = cem.solve(quadratic(targets[index : index + 1]), space(1.0), rngs=generators(1, first=index))
        np.testing.assert_array_equal(alone.actions[0], together.actions[index])
        assert alone.cost[0] == together.cost[index]


def test_every_candidate_respects_the_bounds(targets):
    seen = []

    def cost(candidates):
        seen.append(candidates.copy())
        return quadratic(3.0 * targets[:1])(candidates)

    cem = CEM(CEMConfig(samples=50, elites=5, iterations=6))
    outside = np.full((1, HORIZON, WIDTH), 5.0, np.float32)
    solution = cem.solve(cost, space(0.5), rngs=generators(1), initial=outside)
    assert np.abs(np.stack(seen)).max() == np.float32(0.5)
    assert np.abs(solution.actions).max() <= np.float32(0.5)


def test_without_bounds_candidates_are_not_clipped():
    seen = []

    def cost(candidates):
        seen.append(candidates.copy())
        return np.square(candidates).sum(axis=(2, 3))

    CEM(CEMConfig(iterations=1)).solve(cost, space(), rngs=generators(1))
    assert np.abs(seen[0]).max() > 3.5
    np.testing.assert_allclose(seen[0].std(), 1.0, atol=0.02)


def test_sample_zero_is_the_current_mean_and_the_search_starts_at_the_initial_plan(targets):
    means, seen = [], []

    def cost(candidates):
        seen.append(candidates[:, 0].copy())
        return quadratic(targets[:1])(candidates)

    cem = CEM(CEMConfig(samples=50, elites=5, iterations=3))
    means = [step.actions for step in cem.search(cost, space(), rngs=generators(1), initial=targets[:1])]
    np.testing.assert_array_equal(seen[0], targets[:1])
    np.testing.assert_array_equal(seen[1], means[0])
    np.testing.assert_array_equal(seen[2], means[1])


def test_refit_is_elite_mean_and_unbiased_std():
    seen = []

    def cost(candidates):
        seen.append(candidates.copy())
        return np.square(candidates).sum(axis=(2, 3))

    step = next(CEM(CEMConfig(samples=40, elites=4)).search(cost, space(), rngs=generators(1)))
    elites = seen[0][0][np.argsort(step.costs[0])[:4]]
    np.testing.assert_allclose(step.actions[0], elites.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(step.std[0], elites.std(axis=0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(step.cost, np.sort(step.costs[0])[:4].mean(), rtol=1e-6)


def test_min_std_keeps_the_search_alive(targets):
    cem = CEM(CEMConfig(samples=50, elites=5, iterations=20, min_std=0.25))
    steps = list(cem.search(quadratic(targets[:1]), space(), rngs=generators(1)))
    assert steps[-1].std.min() == np.float32(0.25)


def test_after_the_deadline_no_iteration_starts(targets):
    past = CEM().solve(quadratic(targets[:1]), space(), rngs=generators(1), deadline=0.0)
    assert past.iterations == 1
    first = next(CEM().search(quadratic(targets[:1]), space(), rngs=generators(1)))
    np.testing.assert_array_equal(past.actions, first.actions)


def test_costs_without_enough_finite_values_are_refused():
    def cost(candidates):
        costs = np.full(candidates.shape[:2], np.nan, np.float32)
        costs[:, :29] = 1.0
        return costs

    with pytest.raises(ValueError, match="environment 0: found 29 finite values of 300, expected at least 30"):
        CEM().solve(cost, space(), rngs=generators(1))


def test_a_few_nan_costs_are_never_elites(targets):
    def cost(candidates):
        costs = quadratic(targets[:1])(candidates)
        costs[:, ::3] = np.nan
        return costs

    assert np.isfinite(CEM(CEMConfig(iterations=3)).solve(cost, space(), rngs=generators(1)).actions).all()


def test_costs_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"costs: found shape \(1, 5\), expected \(B, S\) = \(1, 300\)"):
        CEM().solve(lambda candidates: np.zeros((1, 5), np.float32), space(), rngs=generators(1))


def test_an_initial_plan_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="initial plan: found shape"):
        CEM().solve(quadratic, space(), rngs=generators(1), initial=np.zeros((1, 2, WIDTH), np.float32))


def test_an_initial_plan_with_nan_is_refused():
    broken = np.full((1, HORIZON, WIDTH), np.nan, np.float32)
    with pytest.raises(ValueError, match="initial plan: found numbers that are not finite"):
        CEM().solve(quadratic, space(), rngs=generators(1), initial=broken)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("elites", {"elites": 1}),
        ("elites", {"samples": 20, "elites": 21}),
        ("iterations", {"iterations": 0}),
        ("noise_exponent", {"noise_exponent": -0.5}),
        ("min_std", {"min_std": -1.0}),
    ],
)
def test_impossible_settings_are_refused(field, values):
    with pytest.raises(ValueError, match=f"CEMConfig.{field}: found"):
        CEMConfig(**values)


def test_a_frame_skip_that_does_not_divide_the_block_is_refused():
    with pytest.raises(ValueError, match="frame_skip: found 3, expected a divisor"):
        SearchSpace(horizon=2, frame_skip=3, low=np.zeros(10, np.float32), high=np.ones(10, np.float32))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 4.0])
def test_coloured_noise_has_unit_variance_and_the_correlation_of_its_spectrum(exponent):
    matrix = colouring(horizon=HORIZON, frame_skip=SKIP, width=WIDTH, exponent=exponent)
    white = np.random.default_rng(0).standard_normal((20_000, HORIZON * WIDTH), dtype=np.float32)
    measured = np.cov(white @ matrix, rowvar=False)
    # Raw actions are ordered in time with their columns inside: (K, F, C) flattened.
    expected = np.kron(correlation(HORIZON * SKIP, exponent), np.eye(WIDTH // SKIP))
    np.testing.assert_allclose(measured, expected, atol=0.04)


def test_noise_is_correlated_across_blocks_as_inside_them():
    matrix = correlation(HORIZON * SKIP, 2.0)
    inside, across = matrix[SKIP - 2, SKIP - 1], matrix[SKIP - 1, SKIP]
    assert inside == across > 0.9
    # Not periodic: the last action is the least like the first.
    assert matrix[0].argmin() == HORIZON * SKIP - 1


def test_exponent_zero_is_white():
    np.testing.assert_allclose(correlation(12, 0.0), np.eye(12), atol=1e-12)
    np.testing.assert_allclose(colouring(horizon=2, frame_skip=3, width=6, exponent=0.0), np.eye(12), atol=1e-7)
