"""The default planner of every shipped model: what its validation tasks choose, and what that does on test tasks.

Every shipped world model plans with the same few searches on the same validation tasks: plans executed whole, as the
papers do, and ``timed``, continued after every block so as to end when the goal is due (``mpc.arrival``). The one with
the highest success is chosen, the quicker of equals. It is then run on test tasks beside ``configs/plan/nano.yaml``,
and its settings are written to ``configs/plan/<model>.yaml``.

    python benchmarks/shipped.py --models lewm-pusht-nano
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from beyond_planners import HORIZON, search
from harness import Benchmark, start
from runs import ROOT, load_data, origin

from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.hub import builtin_names
from jepakit.planning.evaluation import EvaluationConfig, PolicyResult, evaluate, mcnemar_test
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo import from_pretrained

USUAL = "CEM 128×6, whole"  # configs/plan/nano.yaml
OFFSET = 25


def candidates() -> dict[str, dict[str, Any]]:
    """Every planner's plain values by its name."""
    searches = {
        "CEM 128×6": search("cem", 128, 6, elites=16),
        "CEM 64×4": search("cem", 64, 4, elites=8),
        "iCEM 64×4": search("icem", 64, 4, elites=8),
        "random shooting 32×3": search("random_shooting", 32, 3),
    }
    paces = {
        "whole": {"horizon": HORIZON, "execute_blocks": HORIZON},
        "timed": {"horizon": HORIZON, "execute_blocks": 1, "arrival": OFFSET, "warm_start": True},
    }
    return {
        f"{name}, {pace}": {**settings, "mpc": mpc, "bounded": True}
        for name, settings in searches.items()
        for pace, mpc in paces.items()
    }


def run(
    bench: Benchmark, model: str, data: EpisodeDataModule, planners: dict[str, dict[str, Any]], tasks: TaskConfig
) -> dict[str, PolicyResult]:
    """Every planner on the same tasks."""
    backend = TorchBackend(from_pretrained(f"builtin:{model}").model, threads=1)
    policies = {name: PlannerConfig.parse(values, where=name).policy(backend) for name, values in planners.items()}
    config = EvaluationConfig(latency_repeats=2 if bench.quick else 20)
    result = evaluate(policies, environment_factory(data), tasks_of(data, tasks), config)
    for found in result.policies:
        low, high = found.interval95
        assert found.latency is not None
        row = {"model": model, "planner": found.name, "split": tasks.split, "tasks": tasks.count}
        bench.row(**row, success=found.rate, low=low, high=high, p50_ms=found.latency.p50)
    return {found.name: found for found in result.policies}


def choose(results: dict[str, PolicyResult]) -> str:
    """The planner with the highest success, the quicker of equals."""

    def merit(name: str) -> tuple[float, float]:
        latency = results[name].latency
        assert latency is not None
        return -results[name].rate, latency.p50

    return min(results, key=merit)


def write_overlay(file: Path, model: str, chosen: str, settings: dict[str, Any], tasks: int) -> None:
    """Write the chosen settings for ``lightning evaluate -c``."""
    comment = (
        f"# {chosen}: what {tasks} validation tasks chose for builtin:{model} (benchmarks/shipped.py).\n"
        "# Goals are taken to be 25 environment steps away.\n"
    )
    values = {"planner": {**settings, "threads": 1}}
    file.write_text(comment + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = builtin_names()
    parser.add_argument("--models", nargs="+", default=shipped, choices=shipped)
    parser.add_argument("--tasks", type=int, default=100, help="validation tasks; twice as many test tasks")
    parser.add_argument("--overlays", type=Path, default=ROOT / "configs" / "plan", help="folder to write to")
    bench = start("shipped", __doc__, parser)
    keep_freed_memory()
    options = bench.options
    count = 4 if bench.quick else options.tasks
    planners = candidates()
    if bench.quick:
        planners = {name: planners[name] for name in (USUAL, "random shooting 32×3, timed")}
    for model in options.models[: 1 if bench.quick else None]:
        data = load_data(model.split("-")[1])
        tried = run(bench, model, data, planners, TaskConfig(count=count, offset=OFFSET, split="val"))
        chosen = choose(tried)
        pair = {name: planners[name] for name in (USUAL, chosen)}
        tested = run(bench, model, data, pair, TaskConfig(count=2 * count, offset=OFFSET, split="test"))
        solved = [[outcome.success for outcome in tested[name].outcomes] for name in (chosen, USUAL)]
        bench.row(model=model, chosen=chosen, p=mcnemar_test(*solved))
        bench.ratio(f"{model}: success, {chosen} / {USUAL}", tested[chosen].rate / max(tested[USUAL].rate, 1e-9))
        if not bench.quick:
            write_overlay(options.overlays / f"{model}.yaml", model, chosen, planners[chosen], count)
    print(origin())
    bench.finish()


if __name__ == "__main__":
    main()
