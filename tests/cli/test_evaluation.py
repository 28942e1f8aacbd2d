"""Evaluating with an objective in physical quantities, from a readout's file to the record of the result."""

import numpy as np
import pytest
import torch

from jepakit.cli.evaluation import EvaluationPlannerConfig, evaluate_model
from jepakit.cli.held_out import check_held_out
from jepakit.datamodules import TwoRoom
from jepakit.datamodules.base import Generate
from jepakit.datamodules.tasks import TaskConfig, tasks_of
from jepakit.planning import CEMConfig, KeepOutConfig, ObjectiveConfig, ReachTargetConfig
from jepakit.planning.evaluation import protocol
from jepakit.planning.evaluation.protocol import EvaluationConfig
from jepakit.planning.evaluation.report import Evaluation
from jepakit.zoo import LeWMConfig, LeWMModel
from jepakit.zoo.readout import Readout, fit_readout

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    generate = Generate(root=str(tmp_path_factory.mktemp("data")), episodes=20, steps=50, workers=1)
    module = TwoRoom(generate=generate, image_size=16, batch_size=4)
    module.prepare_data()
    module.setup("test")
    return module


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    config = LeWMConfig(
        image_size=16,
        frame_skip=data.window.frame_skip,
        encoder="cnn",
        cnn_channels=(4, 8),
        latent_dim=8,
        projector_hidden=16,
        action_hidden=16,
        predictor_width=16,
        predictor_depth=1,
        predictor_heads=2,
        predictor_head_dim=8,
        predictor_mlp=16,
    )
    built = LeWMModel(config).eval()
    built.set_statistics(data.statistics)
    return built


@pytest.fixture(scope="module")
def readout(data, model, tmp_path_factory):
    """Where the agent is, read off real frames' latents."""
    rows = np.arange(0, 500, 5)
    with torch.no_grad():
        latents = model.encode({"pixels": torch.from_numpy(data.source.read("pixels", rows))[:, None]})[:, 0]
    file = tmp_path_factory.mktemp("readout") / "readout.safetensors"
    fit_readout(latents, data.source.read("state", rows)[:, :2], ["x", "y"]).save(file)
    return file


def run(data, model, tasks=2, shared=None, **planner):
    config = EvaluationPlannerConfig(cem=CEMConfig(samples=8, elites=2, iterations=2), bounded=True, **planner)
    once = EvaluationConfig(budget=10, record=1, latency_repeats=0, **(shared or {}))
    manifest = tasks_of(data, TaskConfig(count=tasks))
    return evaluate_model(model, data, planner=config, manifest=manifest, evaluation=once, settings={})


@pytest.mark.parametrize(
    "shared",
    [
        {"workers": 2},
        pytest.param({"workers": 2, "cluster": "local"}, marks=pytest.mark.slow),
    ],
)
def test_workers_find_the_same_of_every_task(data, model, shared):
    alone, together = run(data, model, tasks=3), run(data, model, tasks=3, shared=shared)
    assert [policy.name for policy in together.policies] == ["lewm", "random", "stay", "scripted"]
    for policy in alone.policies:
        assert [outcome.task for outcome in policy.outcomes] == [0, 1, 2]
        assert together[policy.name].outcomes == policy.outcomes
        np.testing.assert_array_equal(together[policy.name].recordings[0].frames, policy.recordings[0].frames)


@pytest.mark.parametrize(("workers", "expected"), [(0, 5), (1, 5), (2, 2)])
def test_a_cluster_shares_the_tasks_also_when_nobody_says_among_how_many(data, model, monkeypatch, workers, expected):
    asked = []

    def here(function, jobs, **settings):
        asked.append((settings, [name for name, _ in jobs]))
        return map(function, jobs)

    monkeypatch.setattr(protocol, "each_result", here)
    run(data, model, tasks=5, shared={"workers": workers, "cluster": "auto"})
    ((settings, jobs),) = asked
    assert settings == {"workers": workers if workers > 1 else 0, "cluster": "auto"}
    assert jobs.count("lewm") == expected


def test_quantities_are_read_off_by_the_given_readout(data, model, readout):
    objective = ObjectiveConfig(
        goal=0.0,
        reach=ReachTargetConfig(names=("x", "y"), target=(3.0, 4.0)),
        keep_out=(KeepOutConfig(names=("x",), low=(6.0,), high=(8.0,)),),
    )
    result = run(data, model, objective=objective, readout=str(readout))
    assert {policy.name for policy in result.policies} == {"lewm", "random", "stay", "scripted"}
    described = next(policy for policy in result.policies if policy.name == "lewm").settings["objective"]
    assert [term["name"] for term in described["terms"]] == ["reach_target", "keep_out"]


def test_a_readout_judges_the_goal_picture_in_place_of_the_model(data, model, readout):
    config = EvaluationPlannerConfig(readout=str(readout), by_readout=True)
    backend, read = config.backend(model), Readout.load(readout)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (1, 2, 16, 16, 3), np.uint8)
    latents, goal = np.split(backend.encode(frames), 2, axis=1)
    low, high = np.tile(backend.spec.action_low, 5), np.tile(backend.spec.action_high, 5)
    candidates = rng.uniform(low, high, (1, 4, 2, len(low))).astype(np.float32)
    scores = backend.score(latents, np.empty((1, 0, len(low)), np.float32), candidates, goal[:, 0])
    wanted = read(torch.from_numpy(goal[:, :, None])).numpy()  # (1, 1, 1, 2)
    np.testing.assert_allclose(scores.distance, np.square(scores.readout - wanted).sum(axis=-1), rtol=1e-4, atol=1e-5)
    for wrong in ({"by_readout": True}, {"by_readout": True, "readout": "a", "distance_weights": "b"}):
        with pytest.raises(ValueError, match=r"planner.by_readout: found true, expected it with a readout and without"):
            EvaluationPlannerConfig(**wrong)


def test_goals_may_be_drawn_by_the_environment(data):
    manifest = tasks_of(data, TaskConfig(count=5, goals="drawn"))
    seen = {tuple(state) for state in data.source.read("state", np.arange(sum(data.source.lengths))).tolist()}
    assert not {task.goal_state for task in manifest.tasks} & seen
    with pytest.raises(ValueError, match="goals of the tasks: found 'far', expected 'episode' or 'drawn'"):
        TaskConfig(goals="far")
    result = Evaluation(
        **{"manifest": manifest, "budget": 50, "seed": 0, "policies": (), "settings": {}, "versions": {}},
        **{"machine": {}, "commit": None},
    )
    assert "goals drawn by the environment, budget 50" in result.caption()
    assert result.plain()["tasks"]["goals"] == "drawn"


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("offset", -5)])
def test_task_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"tasks.{name}: found {value}, expected at least 1"):
        TaskConfig(**{name: value})


def test_a_task_list_of_another_split_of_the_same_data_is_refused(data, tmp_path):
    file, other = tmp_path / "tasks.json", TwoRoom(str(data.source.path), image_size=16, seed=1)
    other.setup("test")
    tasks_of(data, TaskConfig(count=5)).save(file)
    assert tasks_of(data, TaskConfig(list=str(file))).sha256 == tasks_of(data, TaskConfig(count=5)).sha256
    with pytest.raises(ValueError, match=r"tasks\.json: found tasks from the episodes .* test split alone"):
        tasks_of(other, TaskConfig(list=str(file)))


def test_what_a_readout_was_fitted_on_is_not_known(data, readout):
    assert EvaluationPlannerConfig(readout=str(readout)).trained_weights() == [str(readout)]
    assert check_held_out([str(readout)], data) == (
        f"not known ({readout}: which episodes it was fitted on is not recorded)"
    )


def test_quantities_without_a_readout_are_refused_before_anything_runs(data, model):
    objective = ObjectiveConfig(reach=ReachTargetConfig(names=("x",), target=(3.0,)))
    with pytest.raises(ValueError, match=r"ReachTargetConfig.names: found \['x'\], expected some of \[\]"):
        run(data, model, objective=objective)
