"""Success against latency: which search is good enough for how many milliseconds, with a trained nano model.

Every planner acts in the environment on the same validation tasks; solver, candidates, iterations and precision vary.
The quickest one whose success is not below the full budget's 95 % interval, on these tasks and again on four times as
many others (the best of many noisy figures is flattered), is then run with the full budget and the baselines on test
tasks. Latency is that of whole plans (one frame encoded) in one environment on one thread.

    python benchmarks/pareto.py --environment tworoom --weights runs/compare/tworoom/lewm/seed-0/training/weights
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from harness import Benchmark, start
from runs import ENVIRONMENTS, load_data

from jepakit.cli.export import draw_queries
from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.recording import load_class
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.export import VerificationError, export_bundle
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import Policy, RandomPolicy, Scripted
from jepakit.planning.backend import Backend
from jepakit.planning.evaluation import EvaluationConfig, PolicyResult, evaluate
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo import from_pretrained
from jepakit.zoo.base import WorldModel

FULL, SMALL_PRECISION = "cem 300×30", "cem 64×4"
HORIZON = 5
ENGINES = ("PyTorch fp32", "ONNX Runtime fp32", "ONNX Runtime int8")


def settings(solver: str, samples: int, iterations: int, **more: float) -> dict[str, Any]:
    """A planner's plain values: bounded, noise coloured, one look per plan."""
    section = {"samples": samples, "iterations": iterations, "noise_exponent": 2.0, **more}
    return {"solver": solver, solver: section, "mpc": {"horizon": HORIZON, "execute_blocks": HORIZON}, "bounded": True}


def searches(quick: bool) -> dict[str, dict[str, Any]]:
    """Every search by its name, "solver samples×iterations"."""
    budgets = [(300, 30), (300, 10), (128, 6), (64, 4), (32, 4), (32, 2), (16, 2)]
    found = {f"cem {s}×{i}": settings("cem", s, i, elites=max(2, s // 8)) for s, i in budgets}
    found[FULL] = settings("cem", 300, 30, elites=30)
    for samples, iterations in ((128, 6), (64, 4), (32, 3)):
        name = f"{samples}×{iterations}"
        found[f"icem {name}"] = settings("icem", samples, iterations, elites=max(2, samples // 8))
        found[f"mppi {name}"] = settings("mppi", samples, iterations, std=1.0)
        found[f"random_shooting {name}"] = settings("random_shooting", samples, iterations)
    found["gradient 8×20"] = settings("gradient", 8, 20)
    return {name: found[name] for name in (FULL, SMALL_PRECISION)} if quick else found


def engines(bench: Benchmark, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, Backend]:
    """The model behind every engine, one thread each; int8 only if the export's verification lets it pass."""
    found: dict[str, Backend] = {ENGINES[0]: TorchBackend(model, threads=1)}
    queries = draw_queries(model, data, count=4 if bench.quick else 16, ahead=HORIZON)
    planner = PlannerConfig.parse(settings("cem", 128, 6, elites=16), where="verification")
    for name, precision in zip(ENGINES[1:], ("fp32", "int8"), strict=True):
        try:
            bundle = export_bundle(
                model, folder / precision, horizon=HORIZON, precision=precision, planner=planner, queries=queries
            )
        except VerificationError as error:
            bench.row(case=f"{name} refused", reason=str(error))
        else:
            found[name] = OnnxBackend(bundle, threads=1)
    return found


def run(
    bench: Benchmark, planners: dict[str, tuple[Backend, dict[str, Any]]], data: EpisodeDataModule, tasks: TaskConfig
) -> dict[str, PolicyResult]:
    """Every planner and the baselines on the same tasks."""
    policies: dict[str, Policy] = {
        name: PlannerConfig.parse(values, where=name).policy(backend) for name, (backend, values) in planners.items()
    }
    policies["random"] = RandomPolicy.uniform(data.statistics.action_low, data.statistics.action_high)
    assert data.expert is not None
    policies["scripted"] = Scripted(load_class(data.expert))
    config = EvaluationConfig(latency_repeats=5 if bench.quick else 50)
    result = evaluate(policies, environment_factory(data), tasks_of(data, tasks), config)
    for found in result.policies:
        timed = {} if found.latency is None else {"p50_ms": found.latency.p50, "p99_ms": found.latency.p99}
        low, high = found.interval95
        bench.row(
            case=found.name, split=tasks.split, tasks=tasks.count, success=found.rate, low=low, high=high, **timed
        )
    return {found.name: found for found in result.policies}


def choose(results: dict[str, PolicyResult], full: str, confirm: Callable[[str], PolicyResult]) -> str:
    """The planner of the lowest median latency whose success is not below the full budget's interval, twice."""
    least = results[full].interval95[0]
    good = {name: found.latency.p50 for name, found in results.items() if found.latency and found.rate >= least}
    return next(name for name in sorted(good, key=good.__getitem__) if name == full or confirm(name).rate >= least)


def draw(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """Success with intervals over latency: a colour per solver, a marker per engine, "samples×iterations" beside it."""
    markers = dict(zip(ENGINES, "os^", strict=True))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    planned = [row for row in rows if "p50_ms" in row]
    solvers = sorted({row["case"].split()[0] for row in planned})
    for row in planned:
        search, engine = row["case"].split(", ")
        solver, budget = search.split()
        x, y = row["p50_ms"], 100 * row["success"]
        below, above = [y - 100 * row["low"]], [100 * row["high"] - y]
        colour = f"C{solvers.index(solver)}"
        axes.errorbar(x, y, [below, above], fmt=markers[engine], color=colour, alpha=0.8, elinewidth=0.6)
        axes.annotate(budget, (x, y), fontsize=7, color=colour, xytext=(4, 4), textcoords="offset points", rotation=35)
    random = next(row["success"] for row in rows if row["case"] == "random")
    axes.axhline(100 * random, color="grey", linestyle=":")
    axes.set(xscale="log", xlabel="milliseconds per plan, median", ylabel="success, %", title=title, ylim=(-3, 109))
    handles = [plt.Line2D([], [], marker=markers[name], color="black", linestyle="", label=name) for name in ENGINES]
    handles += [plt.Line2D([], [], color=f"C{index}", label=solver) for index, solver in enumerate(solvers)]
    handles.append(plt.Line2D([], [], color="grey", linestyle=":", label="random"))
    axes.legend(handles=handles, fontsize=8, loc="center right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--environment", default="tworoom", choices=ENVIRONMENTS)
    parser.add_argument("--weights", default="runs/compare/tworoom/lewm/seed-0/training/weights", help="of a nano LeWM")
    parser.add_argument("--tasks", type=int, default=50, help="validation tasks; twice as many test tasks")
    parser.add_argument("--picture", type=Path, default=Path("runs/pareto.png"))
    bench = start("pareto", __doc__, parser)
    keep_freed_memory()
    options = bench.options
    count = 4 if bench.quick else options.tasks
    model, data = from_pretrained(options.weights).model, load_data(options.environment)
    with tempfile.TemporaryDirectory() as folder:
        backends = engines(bench, model, data, Path(folder))
        every = searches(bench.quick)
        planners = {
            f"{name}, {engine}": (backends[engine], values)
            for name, values in every.items()
            for engine in backends
            if engine == (ENGINES[0] if name.startswith("gradient") else ENGINES[1]) or name == SMALL_PRECISION
        }
        tried = run(bench, planners, data, TaskConfig(count=count, split="val"))
        draw(bench.rows, f"{options.environment}, {count} validation tasks", options.picture)
        full = f"{FULL}, {ENGINES[1]}"
        others = TaskConfig(count=4 * count, split="val", seed=1)
        chosen = choose(tried, full, lambda name: run(bench, {name: planners[name]}, data, others)[name])
        tested = run(bench, {name: planners[name] for name in {full, chosen}}, data, TaskConfig(count=2 * count))
    latency = {name: tested[name].latency for name in (full, chosen)}
    bench.row(case="chosen on validation tasks", planner=chosen)
    bench.ratio(f"milliseconds, {full} / {chosen}", latency[full].p50 / latency[chosen].p50)
    bench.ratio(f"success, {chosen} / {full}", tested[chosen].rate / max(tested[full].rate, 1e-9))
    bench.finish()


if __name__ == "__main__":
    main()
