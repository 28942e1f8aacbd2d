import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from jepakit.planning import ICEM, Gradient, ICEMConfig, KeepOutConfig, MPCConfig, ObjectiveConfig, PlannerConfig

CONFIGS = sorted((Path(__file__).parent.parent.parent / "configs" / "plan").glob("*.yaml"))
SOLVERS = {"nano": "cem", "fast": "random_shooting"}
ENGINE = {"threads", "readout"}  # settings of PyTorch's backend beside the planner's


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_shipped_search_acts(toy, file):
    values = yaml.safe_load(file.read_text())["planner"]
    values = {key: value for key, value in values.items() if key not in ENGINE}
    config = PlannerConfig.parse(values, where=str(file))
    assert config.solver == SOLVERS.get(file.stem, file.stem)  # the others are named after theirs
    policy = config.policy(toy.DifferentiableBackend())
    assert policy.planner.describe()["solver"]["name"] == config.solver
    world = toy.PointMass()
    policy.reset([toy.assign(world, (4.0, 3.0))], budget=50)
    for _ in range(25):
        world.advance(policy.act([world], [0])[0])
    assert toy.PointMass.distance(world.state, (4.0, 3.0)) < 1.0


def test_settings_survive_a_manifest():
    config = PlannerConfig(
        solver="icem",
        icem=ICEMConfig(samples=50, kept=0.5),
        objective=ObjectiveConfig(keep_out=(KeepOutConfig(names=("x",), low=(0.0,), high=(1.0,)),)),
        mpc=MPCConfig(horizon=4, execute_blocks=1, warm_start=True),
        bounded=True,
    )
    plain = json.loads(json.dumps(config.plain()))
    assert PlannerConfig.parse(plain, where="manifest.json") == config
    assert PlannerConfig.parse({}, where="manifest.json") == PlannerConfig()


def test_what_an_engine_adds_is_no_part_of_a_manifest():
    @dataclass(frozen=True, kw_only=True)
    class WithThreads(PlannerConfig):
        threads: int = 4

    assert WithThreads(bounded=True).plain() == PlannerConfig(bounded=True).plain()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sover": "cem"}, "planner: unknown key 'sover' for PlannerConfig; did you mean 'solver'?"),
        ({"cem": {"elite": 3}}, "planner.cem: unknown key 'elite' for CEMConfig; did you mean 'elites'?"),
        ({"cem": {"samples": 3.5}}, r"planner.cem.samples: found 3.5 \(float\), expected int"),
        ({"cem": {"samples": True}}, r"planner.cem.samples: found True \(bool\), expected int"),
        ({"cem": {"elites": 1}}, r"planner.cem: CEMConfig.elites: found 1, expected between 2"),
        (
            {"solver": "controller", "objective": {"action_penalty": 1.0, "smoothness_penalty": 1.0}},
            "PlannerConfig.objective: found action_penalty, smoothness_penalty with the solver 'controller'",
        ),
        ({"cem": 3}, "planner.cem: found int, expected a mapping of the fields of CEMConfig"),
        ({"solver": "simplex"}, r"planner.solver: found 'simplex' \(str\), expected one of \['cem', 'icem'"),
        ({"mpc": {"history": "2"}}, r"planner.mpc.history: found '2' \(str\), expected int"),
        ({"objective": {"keep_out": [{"names": ["x"], "radius": 1}]}}, r"planner.objective.keep_out\[0\]: KeepOutConf"),
        ({"objective": {"reach": {"names": "x", "target": [1]}}}, r"planner.objective.reach.names: found 'x' \(str\)"),
        ({"objective": {"reach": {"names": ["x"]}}}, "planner.objective.reach: .*target"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PlannerConfig.parse(values, where="planner")


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match=r"PlannerConfig.solver: found 'simplex', expected one of \['cem', 'icem'"):
        PlannerConfig(solver="simplex")


def test_whole_numbers_serve_as_floats_and_lists_as_tuples():
    config = PlannerConfig.parse(
        {"objective": {"reach": {"names": ["x"], "target": [2]}, "goal": 0}}, where="planner"
    ).objective
    assert config.reach.names == ("x",)
    assert config.reach.target == (2.0,)
    assert isinstance(config.reach.target[0], float)


def test_the_section_of_the_solver_is_used(toy):
    backend = toy.DifferentiableBackend()
    solver = PlannerConfig(solver="icem", icem=ICEMConfig(samples=77)).planner(backend).solver
    assert isinstance(solver, ICEM)
    assert solver.config.samples == 77
    assert isinstance(PlannerConfig(solver="gradient").planner(backend).solver, Gradient)


def test_a_horizon_beyond_the_engines_is_refused(toy):
    backend = toy.ExactBackend(horizon=3)
    with pytest.raises(ValueError, match="horizon: found 5 blocks, expected at most 3, the exported model's"):
        PlannerConfig().policy(backend)
    planner = PlannerConfig().planner(backend)
    world = toy.PointMass()
    seen, goal = planner.observe(world.render()[None, None]), planner.encode_goal(world.render()[None])
    with pytest.raises(ValueError, match="horizon: found 4 blocks"):
        planner.plan(seen, goal, horizon=4, rngs=[np.random.default_rng(0)])
