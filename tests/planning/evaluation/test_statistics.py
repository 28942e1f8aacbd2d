import numpy as np
import pytest
from scipy.stats import binomtest

from jepakit.planning.evaluation import mcnemar_test, measure_latency, wilson_interval


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


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"successes: found {successes} of {trials} trials"):
        wilson_interval(successes, trials)


@pytest.mark.parametrize(
    ("both", "first", "second", "neither"), [(30, 9, 1, 10), (0, 5, 5, 0), (50, 0, 0, 0), (1, 0, 7, 2)]
)
def test_mcnemar_equals_a_binomial_test_of_the_tasks_that_differ(both, first, second, neither):
    a = [True] * both + [True] * first + [False] * second + [False] * neither
    b = [True] * both + [False] * first + [True] * second + [False] * neither
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_test(a, b) == pytest.approx(expected)
    assert mcnemar_test(b, a) == mcnemar_test(a, b)


def test_mcnemar_wants_the_same_tasks():
    with pytest.raises(ValueError, match="outcomes: found 2 and 1, expected the same tasks"):
        mcnemar_test([True, False], [True])


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
