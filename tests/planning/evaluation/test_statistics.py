import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from jepakit.planning.evaluation import measure_latency, paired_test, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 50), (1, 50), (43, 50), (50, 50), (96, 200), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval_equals_scipys(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson_interval(successes, trials, confidence=confidence), expected, atol=1e-12)


def test_wilson_interval_of_a_published_example():
    # Brown, Cai and DasGupta (2001): no success in 5 trials gives an upper limit of z² / (n + z²).
    low, high = wilson_interval(0, 5)
    assert low == 0.0
    assert high == pytest.approx(1.959964**2 / (5 + 1.959964**2), abs=1e-6)


def test_wilson_interval_of_a_mean_over_seeds_lies_between_its_neighbours():
    below, found, above = (np.asarray(wilson_interval(successes, 50)) for successes in (48, 48 + 1 / 3, 49))
    assert np.all((below < found) & (found < above))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"successes: found {successes} of {trials} trials"):
        wilson_interval(successes, trials)


@pytest.mark.parametrize(
    ("both", "first", "second", "neither"), [(30, 9, 1, 10), (0, 5, 5, 0), (50, 0, 0, 0), (1, 0, 7, 2)]
)
def test_with_one_seed_a_pair_is_a_coin_for_every_task_that_differs(both, first, second, neither):
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert paired_test((a, b)) == pytest.approx(expected)
    assert paired_test((b, a)) == paired_test((a, b))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_seeds_share_tasks_so_a_task_is_one_draw(seeds):
    rng = np.random.default_rng(seeds)
    outcomes = rng.random((seeds, 2, 10)) < [[0.7], [0.3]]
    difference = (outcomes[:, 0].astype(int) - outcomes[:, 1]).sum(0)
    # as many resamples as there are signs: exact
    expected = permutation_test((difference,), np.sum, permutation_type="samples", n_resamples=1 << 10).pvalue
    assert paired_test(*outcomes.tolist()) == pytest.approx(expected)


def test_seeds_that_agree_are_no_more_evidence_than_one():
    first, second = [True] * 8 + [False], [False] * 8 + [True]
    assert paired_test((first, second), (first, second)) == paired_test((first, second))


@pytest.mark.parametrize(
    ("seeds", "found"),
    [
        ([([True, False], [True])], "2 and 1"),
        ([([True], [True]), ([True, False], [True, True])], "1 and 1, 2 and 2"),
        ([([], [])], "0 and 0"),
        ([], "none"),
    ],
)
def test_paired_outcomes_are_of_the_same_tasks(seeds, found):
    with pytest.raises(ValueError, match=f"outcomes: found {found}, expected the same tasks, at least one"):
        paired_test(*seeds)


def test_latency_counts_the_timed_calls_only(monkeypatch):
    clock = iter(np.cumsum([0.0, 0.001] * 100 + [0.0, 0.5]).tolist())
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls = []
    latency = measure_latency(lambda: calls.append(1), repeats=101, warmup=4)
    assert len(calls) == 105
    assert latency.p50 == pytest.approx(1.0)
    assert latency.p95 == pytest.approx(1.0)
    assert latency.p99 == pytest.approx(1.0)
    assert latency.repeats == 101


def test_latency_percentiles_show_the_tail(monkeypatch):
    durations = np.arange(1, 102) / 1000  # 1 … 101 ms
    clock = iter(np.cumsum(np.stack([np.ones(101), durations], axis=1).reshape(-1)).tolist())
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    latency = measure_latency(lambda: None, repeats=101, warmup=0)
    assert (latency.p50, latency.p95, latency.p99) == pytest.approx((51.0, 96.0, 100.0))


def test_latency_needs_a_repeat():
    with pytest.raises(ValueError, match="latency: found repeats 0"):
        measure_latency(lambda: None, repeats=0, warmup=1)
