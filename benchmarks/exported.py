"""What a decision costs on a robot: the planners of the shipped models, on PyTorch and from a bundle, on one thread.

Every shipped world model is exported with its controller. A decision is what happens between two frames: the new one is
encoded, and the model's default planner (``configs/plan/builtin``) plans. The same with ONNX Runtime, and from the same
bundle the search of the papers, CEM 300×30. The first two take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from beyond_planners import HORIZON, REFERENCE, SEARCHES
from harness import Benchmark, seconds, start
from runs import ROOT

from jepakit.cli.evaluation import EvaluationPlannerConfig
from jepakit.cli.runtime import keep_freed_memory
from jepakit.envs.base import GoalEnv
from jepakit.envs.pusht import PushT
from jepakit.envs.tworoom import TwoRoom
from jepakit.export import export_bundle
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.hub import builtin_names
from jepakit.planning import MPCPolicy, PlannerConfig
from jepakit.planning.evaluation.latency import percentiles
from jepakit.planning.evaluation.loop import assign
from jepakit.zoo import from_pretrained

WORLDS: dict[str, type[GoalEnv]] = {"tworoom": TwoRoom, "pusht": PushT}
PLANNERS = ROOT / "configs" / "plan" / "builtin"


def decision(policy: MPCPolicy, name: str, image_size: int) -> Callable[[], object]:
    """A call that makes one decision in the environment that the model's name names."""
    world = WORLDS[name.split("-")[1]](image_size=image_size)
    world.reset(seed=0)
    assert world.goal is not None
    return policy.rehearsal(world, assign(world, world.state, world.goal, np.random.default_rng(0)))


def measure(bench: Benchmark, name: str, folder: Path) -> None:
    """Rows and ratios of one model."""
    file = PLANNERS / f"{name}.yaml"
    settings = EvaluationPlannerConfig.parse(yaml.safe_load(file.read_text())["planner"], where=str(file))
    model = from_pretrained(f"builtin:{name}").model
    bundle = export_bundle(model, folder, horizon=HORIZON, controller=settings.load_controller())
    engine = OnnxBackend(bundle, threads=1)
    papers = {**SEARCHES[REFERENCE], "bounded": True, "mpc": {"horizon": HORIZON}}
    size = bundle.spec.image_size
    calls = {
        "PyTorch": decision(settings.policy(settings.backend(model)), name, size),
        "ONNX Runtime": decision(PlannerConfig.parse(settings.plain(), where=str(file)).policy(engine), name, size),
        f"{REFERENCE}, ONNX Runtime": decision(PlannerConfig.parse(papers, where=REFERENCE).policy(engine), name, size),
    }
    *turns, dear = calls
    times: dict[str, list[float]] = {case: [] for case in calls}
    repeats = 5 if bench.quick else 300
    for case in turns:
        seconds(calls[case], repeats=10)
    for _, case in itertools.product(range(repeats), turns):
        times[case] += seconds(calls[case], repeats=1, warmup=0)
    times[dear] += seconds(calls[dear], repeats=1 if bench.quick else 5)
    found = {case: percentiles(values) for case, values in times.items()}
    for case, latency in found.items():
        planner = settings.solver if case in turns else REFERENCE
        bench.row(model=name, case=case, planner=planner, **dataclasses.asdict(latency))
    bench.ratio(f"{name}: PyTorch / ONNX Runtime", found["PyTorch"].p50 / found["ONNX Runtime"].p50)
    bench.ratio(f"{name}: {REFERENCE} / default planner", found[dear].p50 / found["ONNX Runtime"].p50)


def main() -> None:
    parser = argparse.ArgumentParser()
    shipped = [file.stem for file in sorted(PLANNERS.glob("*.yaml")) if file.stem in builtin_names()]
    parser.add_argument("--models", nargs="+", default=shipped, choices=shipped)
    bench = start("exported", __doc__, parser)
    keep_freed_memory()
    models = bench.options.models[:1] if bench.quick else bench.options.models
    with tempfile.TemporaryDirectory() as scratch:
        for name in models:
            measure(bench, name, Path(scratch) / name)
    bench.finish()


if __name__ == "__main__":
    main()
