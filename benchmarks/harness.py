"""What every benchmark here shares: options, machine, medians, and the JSON they all write."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Benchmark:
    """Rows and ratios of one benchmark; ``finish`` prints them and writes the JSON file."""

    name: str
    options: argparse.Namespace
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        """Small sizes, few repeats."""
        return bool(self.options.quick)

    def row(self, **values: Any) -> None:  # noqa: ANN401 (JSON-ready values)
        """Add and print one row."""
        self.rows.append(values)
        print("  ".join(f"{key} {_short(value)}" for key, value in values.items()), flush=True)

    def ratio(self, name: str, value: float) -> None:
        """Add and print one ratio."""
        self.ratios[name] = value
        print(f"ratio {name}: {value:.3g}", flush=True)

    def finish(self) -> None:
        """Write ``{"name", "machine", "rows", "ratios"}``."""
        file: Path | None = self.options.json
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            result = {"name": self.name, "machine": machine(), "rows": self.rows, "ratios": self.ratios}
            file.write_text(json.dumps(result, indent=1) + "\n")
            print(f"wrote {file}")


def start(name: str, description: str | None, parser: argparse.ArgumentParser | None = None) -> Benchmark:
    """Parse ``--quick``, ``--json FILE`` and what ``parser`` has already; it is all in ``Benchmark.options``."""
    parser = parser or argparse.ArgumentParser()
    parser.description = description
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    return Benchmark(name, parser.parse_args())


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, and interpreter."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        first = dict(line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines())
        values = {name.strip(): value.strip() for name, value in first.items()}
        if "model name" in values:  # not on Arm; the numbers tell processors apart that a hypervisor names alike
            model = f"{values['model name']} (family {values['cpu family']}, model {values['model']})"
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def seconds(call: Callable[[], object], *, repeats: int, warmup: int = 1) -> list[float]:
    """Wall times of ``repeats`` calls after ``warmup`` untimed ones."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return times


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def matmul_flops(size: int = 2048) -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    import torch

    a = torch.randn(size, size)
    return 2 * size**3 / median(seconds(lambda: a @ a, repeats=9, warmup=2))


def _short(value: Any) -> str:  # noqa: ANN401
    return f"{value:.4g}" if isinstance(value, float) else str(value)
