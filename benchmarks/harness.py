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
    quick: bool
    json_file: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

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
        if self.json_file is not None:
            self.json_file.parent.mkdir(parents=True, exist_ok=True)
            result = {"name": self.name, "machine": machine(), "rows": self.rows, "ratios": self.ratios}
            self.json_file.write_text(json.dumps(result, indent=1) + "\n")
            print(f"wrote {self.json_file}")


def start(name: str, description: str | None) -> Benchmark:
    """Parse ``--quick`` and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    options = parser.parse_args()
    return Benchmark(name, options.quick, options.json)


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, and interpreter."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
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


def _short(value: Any) -> str:  # noqa: ANN401
    return f"{value:.4g}" if isinstance(value, float) else str(value)
