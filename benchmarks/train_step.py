"""Training steps of paper-size LeWM: through our module against the same architecture written the plain way.

Both start from the same weights and see the same windows and SIGReg directions; their losses are compared first. Every
variant runs in a process of its own, one step at a time in turn: ours as under ``lightning fit`` (fused AdamW, freed
memory kept), the plain one with torch's defaults and once more with freed memory kept. MFU is the share of the
machine's own float32 matrix-multiplication rate, measured in the same run; torch counts the operations of the plain
model.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from harness import Benchmark, matmul_flops, median, seconds, start
from plain_lewm import PlainLeWM, make_pair
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jepakit.cli.runtime import keep_freed_memory
from jepakit.zoo import LeWMConfig
from jepakit.zoo.base import WorldModelConfig
from jepakit.zoo.losses.sigreg import random_directions

THREADS = 2


def make_batch(config: WorldModelConfig, windows: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Random windows, the same whenever it is called."""
    generator = torch.Generator().manual_seed(0)
    shape = (windows, config.history + config.predictions)
    side = config.image_size
    pixels = torch.randint(0, 256, (*shape, side, side, 3), dtype=torch.uint8, generator=generator)
    action = torch.randn(*shape, config.block_width, generator=generator)
    return {"pixels": pixels.to(device), "action": action.to(device)}


def plain_loss(model: PlainLeWM, config: LeWMConfig, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        device = batch["action"].device
        directions = random_directions(config.latent_dim, config.directions, seed=0, step=0, device=device)
        return model(batch["pixels"], batch["action"], directions)

    return loss


def check_same(config: LeWMConfig, batch: dict[str, Tensor]) -> float:
    """Largest relative difference of the losses and of a gradient, without dropout."""
    still = dataclasses.replace(config, dropout=0.0)
    plain, ours = make_pair(still)
    losses = plain_loss(plain, still, batch)(), ours.losses(batch).total
    weights = plain.projector.net[0].weight, ours.projector.expand.weight
    slopes = [torch.autograd.grad(loss, weight)[0] for loss, weight in zip(losses, weights, strict=True)]
    difference = (losses[0] - losses[1]).abs() / losses[0]
    slope = (slopes[0] - slopes[1]).abs().max() / slopes[0].abs().max()
    return max(float(difference.detach()), float(slope))


def stepper(model: nn.Module, loss: Callable[[], Tensor], *, fused: bool) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-3, fused=fused or None)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def flops_of(model: PlainLeWM, config: LeWMConfig, batch: dict[str, Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        plain_loss(model, config, batch)().backward()
    model.zero_grad()
    return int(counter.get_total_flops())


VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {"plain": True, "keep": False},
    "plain, memory kept": {"plain": True},
    "jepakit": {},
    "jepakit, compiled": {"compiled": True},
}


def serve(pipe: Connection, windows: int, plain: bool = False, keep: bool = True, compiled: bool = False) -> None:
    """Take a training step whenever asked, and say how long it took."""
    torch.set_num_threads(THREADS)
    if keep:
        keep_freed_memory()
    config = LeWMConfig()
    batch = make_batch(config, windows)
    theirs, ours = make_pair(config)
    losses = torch.compile(ours.losses) if compiled else ours.losses
    loss = plain_loss(theirs, config, batch) if plain else lambda: losses(batch).total
    step = stepper(theirs if plain else ours, loss, fused=not plain)
    while pipe.recv():
        pipe.send(seconds(step, repeats=1, warmup=0)[0])


class Server:
    """A variant in its process."""

    def __init__(self, windows: int, settings: dict[str, bool]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, windows), kwargs=settings, daemon=True)
        self.process.start()
        other.close()

    def step(self) -> float:
        """Seconds of one training step."""
        self.pipe.send(True)
        return float(self.pipe.recv())

    def stop(self) -> None:
        """End the process."""
        self.pipe.send(False)
        self.process.join()


def compare(bench: Benchmark, windows: int, repeats: int) -> None:
    config = LeWMConfig()
    batch = make_batch(config, windows)
    bench.row(case="relative difference of losses and gradients", value=check_same(config, batch))
    flops, peak = flops_of(make_pair(config)[0], config, batch), matmul_flops()
    bench.row(case="machine", threads=THREADS, matmul_gflop_per_s=peak / 1e9, gflop_per_step=flops / 1e9)
    names = list(VARIANTS)[:3] if bench.quick else list(VARIANTS)
    servers = {name: Server(windows, VARIANTS[name]) for name in names}
    for name, server in servers.items():
        bench.row(case=name, first_step_s=server.step())
    times = {name: [] for name in names}
    for _ in range(repeats):
        for name, server in servers.items():
            times[name].append(server.step())
    for server in servers.values():
        server.stop()
    for name, found in times.items():
        middle = median(found)
        spread = {"lowest": min(found), "highest": max(found)}
        case = {"case": name, "windows": windows, "threads": THREADS}
        bench.row(**case, step_s=middle, **spread, windows_per_s=windows / middle, mfu=flops / middle / peak)
    for base in names[:2]:
        for name in names[2:]:
            bench.ratio(f"{base} / {name}", median([a / b for a, b in zip(times[base], times[name], strict=True)]))


def main() -> None:
    bench = start("train_step", __doc__)
    torch.set_num_threads(THREADS)
    compare(bench, *((4, 3) if bench.quick else (8, 7)))
    bench.finish()


if __name__ == "__main__":
    main()
