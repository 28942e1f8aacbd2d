"""Planning time on a CPU: CEM with paper-size LeWM, naive against ours, the other models beside it, and nano models.

An *iteration* scores 300 candidates of 5 blocks from one frame in one environment; a plan is 30 of them and the
encoding of one frame. The naive loop embeds all actions and predicts from the whole context (12 frames per candidate)
at every step; ours computes the same numbers. Variants take turns, iteration by iteration. int8 and the small search
budget change the numbers: int8 is gated by the export's own verification; what the budget costs in success is for
``benchmarks/pareto.py``.

Weights are random, with the spread of the actions' modulation at 0.1, so that costs depend on actions.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from harness import Benchmark, matmul_flops, median, seconds, start
from plain_lewm import PlainLeWM, make_pair
from torch.utils.flop_counter import FlopCounterMode

from jepakit.cli.runtime import keep_freed_memory
from jepakit.export import Bundle, Queries, VerificationError, export_bundle
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import Observation, PlannerSpec
from jepakit.planning.backend import Backend
from jepakit.planning.evaluation import measure_latency
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo import (
    CJEPAConfig,
    CJEPAModel,
    DINOWMConfig,
    DINOWMModel,
    LeWMConfig,
    LeWMModel,
    PLDMConfig,
    PLDMModel,
    VJEPAConfig,
    VJEPAModel,
)
from jepakit.zoo.base import WorldModel

THREADS, CANDIDATES, HORIZON, ITERATIONS, GATES = 2, 300, 5, 30, 0.1
FAST = Path(__file__).parent.parent / "configs" / "plan" / "fast.yaml"
PAPER = {"cem": {"samples": CANDIDATES, "elites": 30, "iterations": ITERATIONS}, "mpc": {"horizon": HORIZON}}


class Problem:
    """A frame's latents, a goal's, and candidates that look like a search in its middle, for every environment."""

    def __init__(
        self, spec: PlannerSpec, candidates: int = CANDIDATES, *, horizon: int = HORIZON, environments: int = 1
    ) -> None:
        rng = np.random.default_rng(0)
        shape = (2, environments, 1, spec.tokens, spec.width)
        self.history, self.goal = rng.standard_normal(shape, dtype=np.float32)
        self.goal = self.goal[:, 0]
        self.past = np.empty((environments, 0, spec.block_width), np.float32)
        shape = (environments, candidates, horizon, spec.block_width)
        self.candidates = rng.standard_normal(shape, dtype=np.float32)
        shape = (environments, 1, spec.image_size, spec.image_size, 3)
        self.frame = rng.integers(0, 256, shape, dtype=np.uint8)

    def score(self, backend: Backend) -> np.ndarray:
        """One iteration through a backend."""
        return backend.score(self.history, self.past, self.candidates, self.goal).distance

    def score_naively(self, model: PlainLeWM) -> np.ndarray:
        """One iteration of the naive loop."""
        z, candidates, goal = (torch.from_numpy(part[0]) for part in (self.history[0], self.candidates, self.goal))
        with torch.inference_mode():
            return model.distances(z[0], candidates, goal[0])[None].numpy()


def random_queries(spec: PlannerSpec, count: int) -> Queries:
    rng = np.random.default_rng(1)
    side = spec.image_size
    return Queries(
        frames=rng.integers(0, 256, (count, spec.history, side, side, 3), dtype=np.uint8),
        past_actions=rng.standard_normal((count, spec.history - 1, spec.block_width), dtype=np.float32),
        goal_frames=rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
    )


def exported(model: WorldModel, folder: Path, **options: Any) -> Bundle:  # noqa: ANN401 (export_bundle's)
    """The bundle in ``folder``, made if it is not there: weights follow from seeds, so an earlier run's is the same."""
    return Bundle.open(folder) if folder.exists() else export_bundle(model, folder, horizon=HORIZON, **options)


def operations(call: Callable[[], object]) -> float:
    """Floating-point operations of PyTorch's matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def variants(bench: Benchmark, plain: PlainLeWM, ours: LeWMModel, folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Calls that score the same candidates."""
    backend = TorchBackend(ours, threads=THREADS)
    problem = Problem(backend.spec)
    full = OnnxBackend(exported(ours, folder / "fp32"), threads=THREADS)
    calls = {
        "naive, PyTorch": lambda: problem.score_naively(plain),
        "ours, PyTorch": lambda: problem.score(backend),
        "ours, ONNX Runtime": lambda: problem.score(full),
    }
    queries = random_queries(backend.spec, 1 if bench.quick else 3)
    short = PlannerConfig.parse({"cem": {"samples": CANDIDATES, "elites": 30, "iterations": 5}}, where="verification")
    try:
        bundle = exported(ours, folder / "int8", precision="int8", queries=queries, planner=short)
    except VerificationError as error:
        bench.row(case="int8 refused", reason=str(error))
    else:
        bench.row(case="int8 accepted", **bundle.manifest["verification"]["int8"]["planning"])
        low = OnnxBackend(bundle, threads=THREADS)
        calls["ours, ONNX Runtime, int8"] = lambda: problem.score(low)
    return calls


def paper_size(bench: Benchmark, folder: Path, peak: float) -> None:
    """The four ways to plan with paper-size LeWM; one layer of each part with ``--quick``."""
    config = LeWMConfig(vit_depth=1, predictor_depth=1) if bench.quick else LeWMConfig()
    plain, ours = make_pair(config, gates=GATES)
    plain, ours = plain.eval(), bounded(ours.eval())
    calls = variants(bench, plain, ours, folder)
    naive, same = calls["naive, PyTorch"](), calls["ours, PyTorch"]()
    bench.row(case="relative difference of the costs", value=float(np.abs(naive - same).max() / np.abs(naive).max()))
    flops = {name: operations(calls[name]) for name in list(calls)[:2]}
    backend = TorchBackend(ours, threads=THREADS)
    frame = Problem(backend.spec).frame
    encode = median(seconds(lambda: backend.encode(frame), repeats=5))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        seconds(call, repeats=1)
    for _ in range(3 if bench.quick else 15):
        for name, call in calls.items():
            times[name] += seconds(call, repeats=1, warmup=0)
    for name, found in times.items():
        work = flops["naive, PyTorch" if name.startswith("naive") else "ours, PyTorch"]
        bench.row(
            case=name,
            threads=THREADS,
            iteration_ms=1e3 * median(found),
            lowest=1e3 * min(found),
            highest=1e3 * max(found),
            plan_s=encode + ITERATIONS * median(found),
            gflop=work / 1e9,
            share_of_peak=work / median(found) / peak,
        )
    for name in list(times)[1:]:
        pairs = zip(times["naive, PyTorch"], times[name], strict=True)
        bench.ratio(f"naive / {name}", median([a / b for a, b in pairs]))
    naive_plan = encode + ITERATIONS * median(times["naive, PyTorch"])
    engine = OnnxBackend(folder / "fp32", threads=THREADS)
    whole = plan_seconds(engine, PlannerConfig.parse(PAPER, where="PAPER"), 1 if bench.quick else 2)
    bench.row(case="whole plans, 300 × 30, ours, ONNX Runtime", plan_s=median(whole))
    fast = plan_seconds(engine, fast_planner(), 3 if bench.quick else 20)
    bench.row(case=f"whole plans, {FAST.name}, ours, ONNX Runtime", plan_s=median(fast))
    bench.ratio(f"naive 300 × 30 / {FAST.name}", naive_plan / median(fast))


def fast_planner() -> PlannerConfig:
    """The small budget, for whose success see ``benchmarks/pareto.py``."""
    values = yaml.safe_load(FAST.read_text())["planner"]
    return PlannerConfig.parse({name: value for name, value in values.items() if name != "threads"}, where=str(FAST))


def planning(backend: Backend, config: PlannerConfig, environments: int = 1) -> Callable[[], object]:
    """A call that encodes a frame and plans, for every environment."""
    planner = config.planner(backend)
    problem = Problem(backend.spec, environments=environments)

    def plan() -> object:
        seen = Observation(latents=planner.encode(problem.frame), past_actions=problem.past)
        rngs = [np.random.default_rng(number) for number in range(environments)]
        return planner.plan(seen, problem.goal, horizon=config.mpc.horizon, rngs=rngs)

    return plan


def plan_seconds(backend: Backend, config: PlannerConfig, repeats: int) -> list[float]:
    return seconds(planning(backend, config), repeats=repeats)


def families(bench: Benchmark, peak: float) -> None:
    """One iteration of every model at its paper's size; fewer candidates where 300 would take minutes."""
    models: dict[str, tuple[Callable[[], WorldModel], int]] = {
        "LeWM": (lambda: LeWMModel(LeWMConfig()), CANDIDATES),
        "PLDM": (lambda: PLDMModel(PLDMConfig()), CANDIDATES),
        "C-JEPA": (lambda: CJEPAModel(CJEPAConfig(image_size=64)), CANDIDATES),
        "V-JEPA": (lambda: VJEPAModel(VJEPAConfig()), 10),
        "DINO-WM": (lambda: DINOWMModel(DINOWMConfig()), 10),
    }
    plans = {}
    for name, (build, candidates) in models.items():
        torch.manual_seed(0)
        backend = TorchBackend(build(), threads=THREADS, candidates_per_call=candidates)
        problem = Problem(backend.spec, 2 if bench.quick and candidates < CANDIDATES else candidates)
        count = problem.candidates.shape[1]
        scale = CANDIDATES / count
        score = lambda backend=backend, problem=problem: problem.score(backend)  # noqa: E731
        work = operations(score)
        iteration = scale * median(seconds(score, repeats=1 if bench.quick else 3))
        encode = median(seconds(lambda b=backend, p=problem: b.encode(p.frame), repeats=3))
        plans[name] = encode + ITERATIONS * iteration
        bench.row(
            case=f"{name}, paper size, PyTorch",
            tokens=backend.spec.tokens,
            timed_candidates=count,
            encode_ms=1e3 * encode,
            iteration_s=iteration,
            plan_s_extrapolated=plans[name],
            gflop=scale * work / 1e9,
            share_of_peak=scale * work / iteration / peak,
        )
    for name in list(models)[1:]:
        bench.ratio(f"{name} / LeWM, plan", plans[name] / plans["LeWM"])


def nano(bench: Benchmark, folder: Path) -> None:
    """Plans per second of nano LeWM in one environment, with the small budget, on one thread."""
    model = with_random_weights(LeWMConfig.nano())
    backends = {
        "PyTorch": TorchBackend(model, threads=1),
        "ONNX Runtime": OnnxBackend(exported(model, folder / "nano"), threads=1),
    }
    for name, backend in backends.items():
        found = measure_latency(planning(backend, fast_planner()), repeats=20 if bench.quick else 300, warmup=5)
        bench.row(
            case=f"nano LeWM, {FAST.name}, {name}, 1 thread",
            plans_per_s=1e3 / found.p50,
            p50_ms=found.p50,
            p95_ms=found.p95,
            p99_ms=found.p99,
        )
        bench.ratio(f"p99 / p50, {name}", found.p99 / found.p50)


def with_random_weights(config: LeWMConfig) -> LeWMModel:
    """A model that was never trained, whose costs depend on actions all the same."""
    torch.manual_seed(0)
    model = LeWMModel(config).eval()
    for block in model.predictor.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=GATES)
    return bounded(model)


def bounded(model: LeWMModel) -> LeWMModel:
    """Give a model without data the action bounds that planners with bounds ask for."""
    model.action_low.fill_(-1.5)
    model.action_high.fill_(1.5)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=Path, help="keep the exported bundles there, and use those of an earlier run")
    bench = start("planner", __doc__, parser)
    keep_freed_memory()
    torch.set_num_threads(THREADS)
    peak = matmul_flops()
    bench.row(case="machine", threads=THREADS, matmul_gflop_per_s=peak / 1e9)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (bench.options.bundles or Path(scratch)) / ("quick" if bench.quick else "full")
        folder.mkdir(parents=True, exist_ok=True)
        paper_size(bench, folder, peak)
        nano(bench, folder)
    families(bench, peak)
    bench.finish()


if __name__ == "__main__":
    main()
