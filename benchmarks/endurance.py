"""Thousands of plans in one process, with random deadlines and bad observations: memory, contracts, latency.

A tiny LeWM, exported, plans with ONNX Runtime on one thread. One call in five is given something that is wrong: frames
of another size, type or number of axes, past actions or latents with NaN, of another type or width, a goal of another
shape, too long a horizon. Contracts: a plan's actions are finite, within bounds and of the right shape; once the
deadline has passed, no iteration starts but the first; what is wrong is refused with an error that says what was
expected. Memory is the resident set after a tenth of the calls and after all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness import Benchmark, start

from jepakit.export import export_bundle
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.planning import CEM, CEMConfig, Plan, Planner, PlannerSpec
from jepakit.planning.backend import Frames, Scores
from jepakit.planning.solver import Array
from jepakit.zoo import LeWMConfig, LeWMModel

HORIZON, LONGEST = 4, 0.01  # blocks; seconds to a deadline
TINY = LeWMConfig(
    image_size=32,
    frame_skip=2,
    encoder="cnn",
    cnn_channels=(4, 8),
    latent_dim=16,
    projector_hidden=32,
    action_hidden=32,
    predictor_width=32,
    predictor_depth=1,
    predictor_heads=2,
    predictor_head_dim=16,
    predictor_mlp=32,
)
Call = tuple[Frames, Array, Array, int]  # frames, past actions, goal latents, horizon


class Watched:
    """A backend that remembers when it was asked to score."""

    def __init__(self, backend: OnnxBackend) -> None:
        self.spec = backend.spec
        self._backend = backend
        self.began: list[float] = []

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Latents of frames."""
        return self._backend.encode(frames, proprio)

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Scores:
        """What candidates lead to, and when that was asked."""
        self.began.append(time.monotonic())
        return self._backend.score(history, past_actions, candidates, goal)


def good_call(spec: PlannerSpec, rng: np.random.Generator) -> Call:
    frames = int(rng.integers(1, spec.history + 1))
    return (
        rng.integers(0, 256, (1, frames, spec.image_size, spec.image_size, 3), dtype=np.uint8),
        rng.uniform(-1, 1, (1, frames - 1, spec.block_width)).astype(np.float32),
        rng.standard_normal((1, spec.tokens, spec.width), dtype=np.float32),
        int(rng.integers(1, HORIZON + 1)),
    )


def with_nan(array: Array) -> Array:
    """A copy, one number of it NaN."""
    bad = array.copy()
    bad.flat[0] = np.nan
    return bad


#: What can be wrong with a call; each takes the parts of a good one with two frames or more.
FAULTS: dict[str, Callable[[Frames, Array, Array, int], Call]] = {
    "frames of another size": lambda frames, past, goal, k: (frames[:, :, 1:], past, goal, k),
    "frames of floats": lambda frames, past, goal, k: (frames.astype(np.float32), past, goal, k),
    "frames without time": lambda frames, past, goal, k: (frames[:, 0], past, goal, k),
    "frames of one colour": lambda frames, past, goal, k: (frames[..., :1], past, goal, k),
    "no frames": lambda frames, past, goal, k: (frames[:, :0], past, goal, k),
    "past actions with NaN": lambda frames, past, goal, k: (frames, with_nan(past), goal, k),
    "past actions of doubles": lambda frames, past, goal, k: (frames, past.astype(np.float64), goal, k),
    "past actions too narrow": lambda frames, past, goal, k: (frames, past[..., 1:], goal, k),
    "too few past actions": lambda frames, past, goal, k: (frames, past[:, 1:], goal, k),
    "a goal with NaN": lambda frames, past, goal, k: (frames, past, with_nan(goal), k),
    "a goal of doubles": lambda frames, past, goal, k: (frames, past, goal.astype(np.float64), k),
    "a goal of another shape": lambda frames, past, goal, k: (frames, past, goal[..., 1:], k),
    "too long a horizon": lambda frames, past, goal, k: (frames, past, goal, HORIZON + 1),
}


class Endurance:
    """Calls a planner and counts what it does."""

    def __init__(self, planner: Planner, backend: Watched) -> None:
        self.planner, self.backend = planner, backend
        self.rng = np.random.default_rng(0)
        self.counts: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.late: list[float] = []

    def plan(self, call: Call, deadline: float | None) -> Plan:
        """Encode and search."""
        frames, past, goal, horizon = call
        observation = self.planner.observe(frames, past)
        seed = np.random.default_rng(int(self.rng.integers(2**32)))
        return self.planner.plan(observation, goal, horizon=horizon, rngs=[seed], deadline=deadline)

    def good(self) -> None:
        """A call as it should be, two of three with a deadline, which may have passed already."""
        call = good_call(self.planner.backend.spec, self.rng)
        began = time.monotonic()
        deadline = None if self.rng.random() < 1 / 3 else began + self.rng.uniform(-LONGEST / 5, LONGEST)
        self.backend.began.clear()
        plan = self.plan(call, deadline)
        ended = time.monotonic()
        self.seconds.append(ended - began)
        self.counts[f"ended by {plan.stop}"] += 1
        self.judge(plan, call[3])
        if deadline is not None:
            self.late.append(max(0.0, ended - deadline))
            late = sum(at > deadline for at in self.backend.began)  # the first, or the one that had just begun
            self.broken["iterations begun after the deadline"] += max(0, late - 1)

    def judge(self, plan: Plan, horizon: int) -> None:
        """Count what is wrong with a plan."""
        spec = self.planner.backend.spec
        actions = plan.actions.reshape(-1, spec.action_dim)
        self.broken["actions of a wrong shape"] += plan.actions.shape != (1, horizon, spec.block_width)
        self.broken["actions not finite"] += not np.isfinite(plan.actions).all()
        self.broken["actions out of bounds"] += bool(
            (actions < spec.action_low).any() or (actions > spec.action_high).any()
        )

    def bad(self, name: str) -> None:
        """A call with a fault; it must be refused in our words."""
        call = good_call(self.planner.backend.spec, self.rng)
        while call[0].shape[1] < 2:
            call = good_call(self.planner.backend.spec, self.rng)
        try:
            self.plan(FAULTS[name](*call), None)
        except (ValueError, TypeError) as error:
            if "expected" in str(error):
                self.counts["refused"] += 1
            else:
                self.broken[f"{name}: in other words: {error}"] += 1
        except Exception as error:  # every other error is a broken contract, which is what we count
            self.broken[f"{name}: {type(error).__name__}"] += 1
        else:
            self.broken[f"{name}: not refused"] += 1


def resident() -> int:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


def run(bench: Benchmark, plans: int, folder: Path) -> None:
    torch.manual_seed(0)
    model = LeWMModel(TINY).eval()
    model.action_low.fill_(-1.0)
    model.action_high.fill_(1.0)
    backend = Watched(OnnxBackend(export_bundle(model, folder / "bundle", horizon=HORIZON), threads=1))
    solver = CEM(replace(CEMConfig(), samples=32, elites=4, iterations=5))
    test = Endurance(Planner(backend, solver, bounded=True), backend)
    faults, before = list(FAULTS), 0
    for number in range(plans):
        if number == plans // 10:
            before = resident()
        if test.rng.random() < 0.2:
            test.bad(faults[int(test.rng.integers(len(faults)))])
        else:
            test.good()
    after = resident()
    milliseconds = {f"p{q}": 1e3 * float(np.percentile(test.seconds, q)) for q in (50, 99)}
    late = {f"p{q}": 1e3 * float(np.percentile(test.late, q)) for q in (50, 99)}
    broken = {name: count for name, count in test.broken.items() if count}
    bench.row(case="calls", plans=len(test.seconds), **test.counts)
    bench.row(case="broken contracts", count=sum(broken.values()), **broken)
    bench.row(case="latency, ms", **milliseconds)
    bench.row(case="after the deadline, ms", **late)
    bench.row(case="resident memory, MiB", before=before / 2**20, after=after / 2**20)
    bench.ratio("resident memory, end / a tenth of the way", after / before)
    bench.ratio("latency p99 / p50", milliseconds["p99"] / milliseconds["p50"])
    bench.finish()
    if broken or after > 1.05 * before:
        raise SystemExit("the planner broke a contract, or its memory grew by more than 5 %")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plans", type=int, help="calls in all (default: 20000, quick: 500)")
    bench = start("endurance", __doc__, parser)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(bench, bench.options.plans or (500 if bench.quick else 20_000), Path(folder))


if __name__ == "__main__":
    main()
