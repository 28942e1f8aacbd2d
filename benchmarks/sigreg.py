"""SIGReg forward and backward against the textbook form: time, peak memory and agreement.

T = 4, B = 128, D = 192, 1024 directions (``--quick``: 128). Memory is what torch allocates at its peak, from its
profiler; on a GPU, if there is one, from the allocator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import Benchmark, median, seconds, start
from plain_lewm import textbook_sigreg
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from jepakit.cli.runtime import keep_freed_memory
from jepakit.zoo.losses.sigreg import random_directions, sigreg

THREADS = (1, 2)
FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"textbook": textbook_sigreg, "jepakit": sigreg}


def value_and_gradient(
    form: Callable[[Tensor, Tensor], Tensor], z: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = z.detach().requires_grad_()
    value = form(leaf, directions)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Highest sum of live allocations during ``call``."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    live = highest = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    return highest


def compare(bench: Benchmark, device: torch.device, batch: int, repeats: int) -> None:
    z = torch.randn(batch, 4, 192, generator=torch.Generator().manual_seed(0)).to(device)
    directions = random_directions(192, 1024, seed=0, step=0, device=device)
    calls = {name: lambda form=form: value_and_gradient(form, z, directions) for name, form in FORMS.items()}
    (value, slope), (exact, exact_slope) = (
        calls["jepakit"](),
        value_and_gradient(textbook_sigreg, z.double().cpu(), directions.double().cpu()),
    )
    error = max(
        float((value.cpu() - exact).abs() / exact),
        float((slope.cpu() - exact_slope).abs().max() / exact_slope.abs().max()),
    )
    bench.row(device=device.type, case="relative error against float64", value=error)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name] += seconds(lambda call=call: (call(), wait(device)), repeats=1)
    threads = torch.get_num_threads()
    memory = {name: peak_bytes(call, device) for name, call in calls.items()}
    for name, found in times.items():
        case = {"device": device.type, "threads": threads, "batch": batch, "case": name}
        bench.row(**case, ms=1e3 * median(found), lowest=1e3 * min(found), peak_mb=memory[name] / 2**20)
    ratio = median([a / b for a, b in zip(times["textbook"], times["jepakit"], strict=True)])
    bench.ratio(f"time, textbook / jepakit, {device.type}, {threads} threads", ratio)
    bench.ratio(f"memory, textbook / jepakit, {device.type}, {threads} threads", memory["textbook"] / memory["jepakit"])


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    bench = start("sigreg", __doc__)
    keep_freed_memory()
    batch, repeats = (32, 3) if bench.quick else (128, 11)
    for threads in THREADS:
        torch.set_num_threads(threads)
        compare(bench, torch.device("cpu"), batch, repeats)
    if torch.cuda.is_available():
        compare(bench, torch.device("cuda"), batch, repeats)
    bench.finish()


if __name__ == "__main__":
    main()
