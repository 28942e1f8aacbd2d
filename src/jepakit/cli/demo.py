"""``lightning demo``: data, training, planning and a report, from one command."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from jepakit.cli import log_into, with_packaged_configs
from jepakit.cli.app import run_application
from jepakit.planning.evaluation.files import write_json
from jepakit.report import write_report
from jepakit.results import read_evaluation

_CONFIG = "configs/demo.yaml"


def run(arguments: list[str]) -> int:
    """Parse the options, run the demo, return the exit code."""
    parser = argparse.ArgumentParser(prog="lightning demo", description=__doc__)
    parser.add_argument(
        "-c", "--config", action="append", help=f"configuration to run, later ones win (default: {_CONFIG})"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the run (default: %(default)s)")
    options = parser.parse_args(arguments[1:])
    config = with_packaged_configs([part for file in options.config or [_CONFIG] for part in ("-c", file)])
    print(json.dumps(demo(config, options.out), indent=1))
    return 0


def demo(config: list[str], out: Path) -> dict[str, Any]:
    """Collect, train, evaluate and report into ``out``; returns what ``out/summary.json`` holds."""
    weights = os.path.join(os.curdir, out, "weights")  # "name/weights" alone could be a Hub id
    started = time.perf_counter()
    trained = run_application(["fit", *config, *log_into(out)])
    data_seconds = trained.datamodule.prepare_seconds
    fitted = time.perf_counter()
    run_application(["evaluate", *config, "--weights", weights, "--out", str(out / "evaluation")])
    evaluated = time.perf_counter()
    report = write_report(out)
    result = read_evaluation(out / "evaluation" / "evaluation.json")
    seconds = {
        "data": data_seconds,
        "train": fitted - started - data_seconds,
        "evaluate": evaluated - fitted,
        "total": time.perf_counter() - started,
    }
    summary = summarise(result, seconds)
    write_json(out / "summary.json", summary)
    print(f"wrote {out / 'summary.json'} and {report}")
    return summary


def summarise(evaluation: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """The few numbers of an evaluation that other programs want."""
    policies = evaluation["policies"]
    planned = next((policy["latency_ms"] for policy in policies.values() if policy["latency_ms"]), None)
    return {
        "tasks": evaluation["tasks"]["count"],
        "success": {name: policy["rate"] for name, policy in policies.items()},
        "interval95": {name: policy["interval95"] for name, policy in policies.items()},
        "plan_latency_ms": planned and {"p50": planned["p50"], "p95": planned["p95"]},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
