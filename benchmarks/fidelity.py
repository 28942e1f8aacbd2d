"""What predicts success in planning? Nano LeWMs that differ in their seed alone: loss and fidelity against success.

Every run trains for ``--steps`` steps, is probed on validation episodes and evaluated on one list of test tasks. The
ratios are Spearman's correlations over the runs, between each figure and the success rate, with the share of random
orders that correlate as strongly (p). What is there is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from harness import start
from runs import WEIGHTS, files, lightning, logging_into
from scipy.stats import spearmanr

EXPECTED = {  # the sign of a correlation with success, were the figure a good one
    "val_loss": -1,
    "ranking_random": 1,
    "ranking_elite": 1,
    "latent_distance": 1,
    "open_loop_over_static": -1,
    "shuffle_gap": 1,
}


def measure(folder: Path, environment: str, seed: int, steps: int, tasks: int) -> dict[str, float]:
    """Figures of one run; trains, probes and evaluates what is not there."""
    configuration = files("lewm", "size/nano", f"data/{environment}", "plan/nano")
    configuration += [f"--seed_everything={seed}", f"--trainer.max_steps={steps}"]
    weights = folder / WEIGHTS
    if not (weights / "config.json").is_file():
        at_the_end = [f"--trainer.val_check_interval={steps}", "--trainer.check_val_every_n_epoch=null"]
        lightning("fit", [*configuration, *at_the_end, *logging_into(folder)], folder)
    given = [*configuration, "--weights", str(weights)]
    probed = folder / "probes" / "fidelity.json"
    if not probed.is_file():
        probe = ["--trainer.callbacks+=jepakit.callbacks.FidelityProbe", "--trainer.logger=false"]
        lightning("probe", [*given, *probe, "--out", str(probed.parent)], folder)
    evaluated = folder / "evaluation" / "evaluation.json"
    if not evaluated.is_file():
        many = [f"--tasks.count={tasks}", "--evaluation.latency_repeats=0", "--out", str(evaluated.parent)]
        lightning("evaluate", [*given, *many], folder)
    (entry,) = json.loads(probed.read_text())["measured"]
    with (folder / "training" / "metrics.csv").open() as lines:
        losses = [float(row["val/loss"]) for row in csv.DictReader(lines) if row.get("val/loss")]
    success = json.loads(evaluated.read_text())["policies"]["lewm"]["rate"]
    return {"val_loss": losses[-1], **entry["values"], "success": success}


def significance(values: list[float], success: list[float], draws: int = 10_000) -> tuple[float, float]:
    """Spearman's correlation, and the share of random orders whose magnitude is at least as large."""
    found = float(spearmanr(values, success).statistic)
    rng = np.random.default_rng(0)
    orders = [abs(float(spearmanr(rng.permutation(values), success).statistic)) for _ in range(draws)]
    return found, float(np.mean(np.array(orders) >= abs(found) - 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--environment", default="tworoom", choices=("tworoom", "pusht"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300, help="few, so that runs differ (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--runs", type=Path, default=Path("runs/fidelity"))
    bench = start("fidelity", __doc__, parser)
    options = bench.options
    if bench.quick:
        options.seeds, options.steps, options.tasks, options.runs = 3, 20, 4, Path("runs/fidelity-quick")
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        folder = (options.runs / options.environment / f"seed-{seed}").resolve()
        rows.append(measure(folder, options.environment, seed, options.steps, options.tasks))
        bench.row(seed=seed, **rows[-1])
    success = [row["success"] for row in rows]
    for name, sign in EXPECTED.items():
        values = [row[name] for row in rows]
        if None in values or np.ptp(success) == 0:
            bench.row(case=f"{name} or success does not vary")
            continue
        found, p = significance(values, success, draws=100 if bench.quick else 10_000)
        bench.row(case=name, correlation=found, p=p, wanted="positive" if sign > 0 else "negative")
        bench.ratio(f"Spearman of {name} with success", found)
    bench.finish()


if __name__ == "__main__":
    main()
