"""How cost grows: data, parameters, candidates, horizon, environments. The exponent of every curve, on one thread.

Cost is fitted as a power of size, by least squares of the logarithms; an exponent of 1 is proportional, 0 is free. At
small sizes the fixed part shows: the exponent between the last two is what goes on.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import Benchmark, matmul_flops, median, seconds, start
from planner import Problem, with_random_weights
from torch.utils.flop_counter import FlopCounterMode
from train_step import make_batch

from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules import TwoRoom
from jepakit.datamodules.collect import Collection, collect
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.zoo import LeWMConfig, LeWMModel

BATCH = 64


def curve(bench: Benchmark, name: str, along: str, sizes: list[int], cost: Callable[[int], dict[str, float]]) -> None:
    """Measure ``cost(size)``, its "seconds", at every size; print the exponents over all and between the last two.

    ``along`` is what the sizes are, or, if ``cost`` returns a figure of that name, what they amount to.
    """
    found = []
    for size in sizes:
        found.append({along: size, **cost(size)})
        bench.row(curve=name, **found[-1])
    logs = [np.log([row[key] for row in found]) for key in (along, "seconds")]
    bench.ratio(f"{name}, exponent", float(np.polyfit(*logs, 1)[0]))
    bench.ratio(f"{name}, exponent at the end", float(np.diff(logs[1])[-1] / np.diff(logs[0])[-1]))


def data(bench: Benchmark, folder: Path) -> None:
    """Writing episodes of 100 steps of 64-pixel Two-Room with one process, and reading batches from them."""

    def write(episodes: int) -> dict[str, float]:
        settings = Collection(
            env="jepakit.envs.tworoom:TwoRoom",
            policy="jepakit.envs.tworoom:TwoRoomExplorer",
            episodes=episodes,
            steps=100,
            image_size=64,
        )
        begun = time.perf_counter()
        store = collect(settings, folder, workers=1)
        taken = time.perf_counter() - begun
        (folder / str(episodes)).symlink_to(store)
        size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        return {"seconds": taken, "bytes_per_frame": size / settings.steps / episodes}

    def read(episodes: int) -> dict[str, float]:
        loaded = TwoRoom(str(folder / str(episodes)), image_size=64, batch_size=BATCH)
        begun = time.perf_counter()
        loaded.setup("fit")
        opened = time.perf_counter() - begun
        batches = iter(loaded.train_dataloader())
        times, faults = [], []
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            times += seconds(lambda: next(batches)["pixels"].view(-1)[::4096].sum(), repeats=1, warmup=0)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return {"seconds": median(times[3:]), "opening_s": opened, "faults": median(faults[3:])}

    sizes = [64, 128] if bench.quick else [64, 128, 256, 512, 1024]
    curve(bench, "writing data", "episodes", sizes, write)
    curve(bench, "reading a batch", "episodes", sizes, read)


def parameters(bench: Benchmark, peak: float) -> None:
    """A training step of nano LeWM, forward and backward, all its widths multiplied."""

    def step(width: int) -> dict[str, float]:  # in quarters of the nano model's
        nano = LeWMConfig.nano()
        grown = {
            name: getattr(nano, name) * width // 4
            for name in ("latent_dim", "projector_hidden", "action_hidden", "predictor_width", "predictor_mlp")
        }
        channels = tuple(count * width // 4 for count in nano.cnn_channels)
        config = dataclasses.replace(nano, cnn_channels=channels, predictor_heads=width, **grown)
        torch.manual_seed(0)
        model = LeWMModel(config)
        batch = make_batch(config, BATCH)

        def run() -> None:
            model.zero_grad()
            model.losses(batch).total.backward()

        with FlopCounterMode(display=False) as counter:
            run()
        taken = median(seconds(run, repeats=2 if bench.quick else 7))
        flops = counter.get_total_flops()
        count = sum(parameter.numel() for parameter in model.parameters())
        return {
            "parameters": count,
            "seconds": taken,
            "gflop_per_window": flops / BATCH / 1e9,
            "mfu": flops / taken / peak,
        }

    curve(bench, "training step", "parameters", [2, 4] if bench.quick else [2, 4, 8, 16], step)


def planning(bench: Benchmark) -> None:
    """One iteration of a search with nano LeWM: more candidates, a longer horizon, more environments."""
    backend = TorchBackend(with_random_weights(LeWMConfig.nano()), threads=1, candidates_per_call=1 << 20)

    def score(candidates: int = 128, **sizes: int) -> dict[str, float]:
        problem = Problem(backend.spec, candidates, **sizes)
        return {"seconds": median(seconds(lambda: problem.score(backend), repeats=3 if bench.quick else 9))}

    short = bench.quick
    candidates = [32, 128] if short else [8, 32, 128, 512, 2048]
    curve(bench, "candidates", "candidates", candidates, score)
    horizons = [2, 4] if short else [1, 2, 4, 8, 16, 32]
    curve(bench, "horizon", "blocks", horizons, lambda size: score(horizon=size))
    environments = [1, 2] if short else [1, 4, 16, 64]
    curve(bench, "environments", "environments", environments, lambda size: score(environments=size))


def main() -> None:
    bench = start("growth", __doc__)
    torch.set_num_threads(1)
    keep_freed_memory()
    peak = matmul_flops()
    bench.row(case="machine", threads=1, matmul_gflop_per_s=peak / 1e9)
    with tempfile.TemporaryDirectory() as scratch:
        data(bench, Path(scratch))
    parameters(bench, peak)
    planning(bench)
    assert all(map(math.isfinite, bench.ratios.values()))
    bench.finish()


if __name__ == "__main__":
    main()
