"""What predicts success in planning? Loss and fidelity of the models of ``compare.py`` against their success.

Every run of the comparison is probed on validation tasks (``jepakit.callbacks.FidelityProbe``), trained first if its
weights are not there. Outcomes are small files under ``--figures``; what is recorded is not done again. Correlations
are Spearman's, three of them per figure: over all runs; over the means of families; and within families, over the
ranks among a family's seeds. The last two have the share p of equally likely orders that correlate as strongly: of
families all orders, of a family's seeds 10,000 random ones.

    python benchmarks/fidelity.py
    python benchmarks/fidelity.py --models lewm --seeds 0 1 2 3 4 5 6 7 8 9 --environments tworoom --windows 15360 \
        --tasks 100 --runs runs/early --records runs/early --figures runs/early/figures --out runs/early.md
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from compare import FAMILIES, Run, add_options, all_runs
from harness import Benchmark
from numpy.typing import NDArray
from runs import ENVIRONMENTS, lightning, logging_into, origin, refuse_another, write_page
from scipy.stats import rankdata, spearmanr

from jepakit.planning.evaluation.files import write_json

FIGURES = {  # title, and the sign of a correlation with success, were the figure a good one
    "val_loss": ("validation loss", "−"),
    "ranking_random": ("ranking, random plans", "+"),
    "ranking_elite": ("ranking, elite plans", "+"),
    "latent_distance": ("latent distance", "+"),
    "open_loop_over_static": ("open loop / static", "−"),
    "shuffle_gap": ("shuffle gap", "+"),
}

Row = dict[str, Any]  # model, seed, success, figures, origin
Values = NDArray[np.float64]


def measure(run: Run, record: Path) -> Row:
    """Figures and success of one run; trains, evaluates and probes what is not recorded."""
    if record.is_file():
        known: Row = json.loads(record.read_text())
        refuse_another(record, known, run.budget)
        return known
    print(record, flush=True)
    if run.outcome() is None or not run.weights.is_dir():  # recorded, perhaps, on another machine
        run.execute()
    probe = ["--trainer.callbacks+=jepakit.callbacks.FidelityProbe", "--trainer.logger=false"]
    where = ["--weights", str(run.weights), "--out", str(run.folder / "fidelity")]
    lightning("probe", [*run.configuration(), *probe, *where], run.folder)
    (entry,) = json.loads((run.folder / "fidelity" / "fidelity.json").read_text())["measured"]
    last = ["--ckpt_path", str(run.weights.parent / "checkpoints" / "last.ckpt")]
    lightning("validate", [*run.configuration(), *last, *logging_into(run.folder, "validation")], run.folder)
    with (run.folder / "validation" / "metrics.csv").open() as lines:
        (validated,) = csv.DictReader(lines)
    outcome = run.outcome()
    assert outcome is not None
    row = {
        **run.budget,
        "model": run.model,
        "seed": run.seed,
        "success": outcome["policies"][run.model]["rate"],
        "figures": {"val_loss": float(validated["val/loss"]), **entry["values"]},
        "origin": origin(),
    }
    write_json(record, row)
    return row


def spearman(values: Values, success: Values) -> float:
    """Spearman's correlation; ``nan`` where one of the two does not vary."""
    if np.ptp(values) == 0 or np.ptp(success) == 0:
        return float("nan")
    return float(spearmanr(values, success).statistic)


def with_p(values: Values, success: Values, orders: Iterable[Values]) -> str:
    """Spearman's correlation, and the share of ``orders`` of the values that correlate at least as strongly."""
    found = spearman(values, success)
    if np.isnan(found):
        return "–"
    as_strong = [abs(spearman(order, success)) >= abs(found) - 1e-12 for order in orders]
    return f"{found:+.2f} (p = {np.mean(as_strong):.2g})"


def columns(rows: list[Row], figure: str) -> tuple[Values, Values]:
    """A figure and the success of every run."""
    values, success = ([row["figures"][figure] for row in rows], [row["success"] for row in rows])
    return np.array(values, dtype=float), np.array(success)


def correlations(rows: list[Row], figure: str, draws: int) -> list[str]:
    """Cells of the table: over all runs, over family means, within families."""
    values, success = columns(rows, figure)
    families = np.array([row["model"] for row in rows])
    members = [families == family for family in dict.fromkeys(families)]
    means = [np.array([column[member].mean() for member in members]) for column in (values, success)]
    inside = [column.copy() for column in (values, success)]
    for column, member in itertools.product(inside, members):
        column[member] = rankdata(column[member]) - (member.sum() + 1) / 2
    rng = np.random.default_rng(0)

    def shuffled_inside() -> Iterable[Values]:
        for _ in range(draws):
            order = np.arange(len(rows))
            for member in members:
                order[member] = rng.permutation(order[member])
            yield inside[0][order]

    whole = spearman(values, success)
    return [
        "–" if np.isnan(whole) else f"{whole:+.2f}",
        with_p(*means, map(np.array, itertools.permutations(means[0]))) if len(members) > 2 else "–",
        with_p(*inside, shuffled_inside()) if len(rows) > len(members) else "–",
    ]


def section(environment: str, rows: list[Row], draws: int) -> list[str]:
    """Markdown of one environment: every run, then the correlations."""
    titles = [title for title, _ in FIGURES.values()]
    lines = [f"## {ENVIRONMENTS[environment]}", "", f"| | success | {' | '.join(titles)} |", "|---" * 8 + "|"]
    for row in rows:
        figures = [row["figures"][name] for name in FIGURES]
        cells = ["undefined" if value is None else f"{value:.3g}" for value in figures]
        title = f"{FAMILIES[row['model']].title.split(' on ')[0]}, seed {row['seed']}"
        lines.append(f"| {title} | {100 * row['success']:.0f} % | {' | '.join(cells)} |")
    lines += ["", "| correlation with success | wanted | all runs | families | within families |", "|---" * 5 + "|"]
    for name, (title, sign) in FIGURES.items():
        undefined = sum(row["figures"][name] is None for row in rows)
        cells = [f"undefined in {undefined} runs"] * 3 if undefined else correlations(rows, name, draws)
        lines.append(f"| {title} | {sign} | {' | '.join(cells)} |")
    return [*lines, ""]


_PAGE = """# What predicts success?

Written by `{command}`. Every model of [the comparison](nano.md), probed on validation
tasks (20 tasks, 64 random and 64 elite plans each), beside its success on {tasks} test tasks. What the figures mean:
[evaluation.md](../evaluation.md). Correlations are Spearman's; p is the share of orders that correlate as strongly, of
all orders of the families, of {draws} random ones of every family's seeds. "Wanted" is the sign that a good figure has.

{origin}

{sections}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, Path("docs/results/fidelity.md"))
    parser.add_argument("--figures", type=Path, default=Path("docs/results/fidelity"), help="folder of what is probed")
    options = parser.parse_args()
    runs = all_runs(options)
    draws = 10_000
    if options.quick:
        options.figures, draws = options.runs / "figures", 100
    files = {run: options.figures / run.environment / f"{run.model}-{run.seed}.json" for run in runs}
    rows = {run: measure(run, file) for run, file in files.items() if file.is_file() or not options.only_table}
    bench = Benchmark("fidelity", options, [{"environment": run.environment, **row} for run, row in rows.items()])
    sections: list[str] = []
    for environment in options.environments:
        found = [row for run, row in rows.items() if run.environment == environment]
        found.sort(key=lambda row: (list(FAMILIES).index(row["model"]), row["seed"]))
        if found:
            sections += section(environment, found, draws)
            for name in FIGURES:
                whole = spearman(*columns(found, name))
                if not np.isnan(whole):
                    bench.ratio(f"{environment}: Spearman of {name} with success", whole)
    origins = sorted({row["origin"] for row in rows.values()})
    text = _PAGE.format(
        command=" ".join(["python benchmarks/fidelity.py", *sys.argv[1:]]),
        tasks=options.tasks,
        draws=draws,
        origin="\n".join(origins),
        sections="\n".join(sections),
    )
    write_page(options.out, text)
    print(options.out.read_text())
    bench.finish()


if __name__ == "__main__":
    main()
