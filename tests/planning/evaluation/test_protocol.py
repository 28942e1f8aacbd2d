import json
import subprocess

import pytest

from jepakit.planning import MPCConfig, RandomPolicy, StayPolicy
from jepakit.planning.evaluation import EvaluationConfig, Outcome, PolicyResult, evaluate, provenance, wilson_interval


@pytest.fixture(scope="module")
def manifest(toy):
    return toy.make_manifest(count=12)


@pytest.fixture(scope="module")
def evaluation(toy, manifest):
    policies = {
        "lewm": toy.make_mpc(),
        "random": RandomPolicy.uniform([-1, -1], [1, 1]),
        "stay": StayPolicy(2),
    }
    config = EvaluationConfig(seed=3, record=2, latency_repeats=5, latency_warmup=1)
    return evaluate(policies, toy.PointMass, manifest, config, settings={"weights": "none"})


def test_the_planner_and_its_baselines_run_together(evaluation):
    assert evaluation["lewm"].rate == 1.0
    assert evaluation["random"].rate <= 0.25
    assert evaluation["stay"].rate == 0.0
    assert evaluation["lewm"].interval95 == wilson_interval(12, 12)
    assert evaluation["stay"].median_steps is None
    assert evaluation.budget == 50  # twice the offset
    with pytest.raises(KeyError, match="policy: found 'oracle'"):
        evaluation["oracle"]


def test_only_planners_have_a_plan_latency(evaluation):
    latency = evaluation["lewm"].latency
    assert latency.repeats == 5
    assert 0 < latency.p50 <= latency.p95 <= latency.p99
    assert evaluation["random"].latency is None


def test_the_json_says_what_was_run(evaluation, manifest, tmp_path):
    path = tmp_path / "run" / "evaluation.json"
    evaluation.save(path)
    found = json.loads(path.read_text())
    assert found["tasks"]["sha256"] == manifest.sha256
    assert found["tasks"]["data_fingerprint"] == manifest.data_fingerprint
    assert found["tasks"]["excluded"] == manifest.excluded > 0
    assert (found["seed"], found["budget"], found["settings"]) == (3, 50, {"weights": "none"})
    assert {"python", "numpy", "jepakit"} <= set(found["versions"])
    lewm = found["policies"]["lewm"]
    assert lewm["settings"]["solver"]["samples"] == 64
    assert lewm["settings"]["bounded"] is True
    assert lewm["settings"]["history"] == lewm["settings"]["trained_history"] == 3
    assert [outcome["task"] for outcome in lewm["outcomes"]] == list(range(12))
    assert len(lewm["curve"]) == 51
    assert lewm["curve"][0] == 0.0
    assert lewm["curve"][-1] == lewm["rate"]
    assert lewm["curve"][int(lewm["median_steps"])] >= 0.5


def test_recordings_are_kept_beside_the_json_not_in_it(evaluation):
    assert [recording.task for recording in evaluation["lewm"].recordings] == [0, 1]
    assert "recordings" not in evaluation.plain()["policies"]["lewm"]


def test_the_tables_say_what_the_numbers_are_about(evaluation):
    markdown = evaluation.markdown()
    assert "| lewm | 100.0% | 75.8% – 100.0% |" in markdown
    assert "| stay | 0.0% | 0.0% – 24.2% | – |" in markdown
    assert "12 tasks from test episodes" in markdown
    assert f"{evaluation.manifest.excluded} solved starts excluded" in markdown
    assert "lewm looks back on 3 frames as trained" in markdown
    table = evaluation.rich_table()
    assert table.row_count == 3
    assert table.caption == evaluation.caption()


def test_another_history_is_printed_with_the_result(toy, manifest):
    policies = {"lewm": toy.make_mpc(config=MPCConfig(history=1), samples=16, iterations=1)}
    evaluation = evaluate(policies, toy.PointMass, manifest, EvaluationConfig(budget=5, latency_repeats=0))
    assert "lewm looks back on 1 frame (asked for; trained with 3)" in evaluation.markdown()
    assert evaluation["lewm"].latency is None
    assert evaluation.budget == 5


def test_progress_names_the_policy(toy, manifest):
    seen = []
    policies = {"stay": StayPolicy(2), "random": RandomPolicy.uniform([-1, -1], [1, 1])}
    config = EvaluationConfig(budget=3)
    evaluate(policies, toy.PointMass, manifest, config, on_step=lambda *progress: seen.append(progress))
    assert next(name for name, done, total in seen if done == total == 3) == "stay"
    assert seen[-1] == ("random", 3, 3)


def test_statistics_of_a_result():
    steps = [10, None, 30, 20]
    outcomes = tuple(
        Outcome(task=index, success=step is not None, steps=step, final_distance=float(index))
        for index, step in enumerate(steps)
    )
    result = PolicyResult(name="some", outcomes=outcomes)
    assert (result.successes, result.rate, result.median_steps) == (3, 0.75, 20.0)
    assert result.mean_final_distance == 1.5
    curve = result.curve(30)
    assert (curve[9], curve[10], curve[19], curve[20], curve[30]) == (0.0, 0.25, 0.25, 0.5, 0.75)


@pytest.mark.parametrize("field", ["seed", "budget", "batch_size", "record", "latency_repeats", "latency_warmup"])
def test_impossible_settings_are_refused(field):
    with pytest.raises(ValueError, match=f"EvaluationConfig.{field}: found -1"):
        EvaluationConfig(**{field: -1})


def test_the_commit_is_that_of_a_checkout_and_of_nothing_else(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    file = tmp_path / "provenance.py"
    file.write_text("first")
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.commit() is None
    git("init")
    assert provenance.commit() is None  # inside a repository, but not part of it
    git("add", file.name)
    git("commit", "-m", "first", "--no-gpg-sign")
    clean = provenance.commit()
    assert len(clean) == 40
    file.write_text("second")
    assert provenance.commit() == f"{clean}-dirty"
