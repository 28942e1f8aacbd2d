"""Trains every nano model of the zoo with the same budget, evaluates it, and writes one table: ``make compare``.

Every run is a folder under ``--runs``, its outcome a small file under ``--records``; what is recorded is not done
again, so the same command continues after an interruption, on another machine too. The budget is a number of windows,
the same for all; a model that trains an encoder first spends a part of them on it. DINO-WM's frozen encoder is that of
the LeWM trained with the same seed: its steps come on top, which the table says. Success is measured as
docs/evaluation.md says, on one list of tasks from test episodes per environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Benchmark, median
from runs import (
    ENVIRONMENTS,
    WEIGHTS,
    WINDOWS,
    files,
    interval,
    lightning,
    logging_into,
    origin,
    refuse_another,
    write_page,
)

from jepakit.planning.evaluation.files import write_json
from jepakit.results import read_evaluation


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model's title and nano configuration; ``encoder_share`` of its steps train the encoder alone."""

    title: str
    size: str = "nano"
    batch_size: int = 128
    encoder_share: float = 0.0
    needs_encoder: bool = False


FAMILIES = {
    "lewm": Family(title="LeWM"),
    "pldm": Family(title="PLDM"),
    "dinowm": Family(title="DINO-WM on LeWM's frozen encoder", size="nano_dinowm", needs_encoder=True),
    "cjepa": Family(title="C-JEPA", size="nano_cjepa", batch_size=64, encoder_share=0.5),
    "vjepa": Family(title="V-JEPA", size="nano_vjepa", encoder_share=0.25),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluation."""

    folder: Path
    record: Path  # exists once everything of the run is done
    model: str
    environment: str
    seed: int
    windows: int
    tasks: int

    @property
    def weights(self) -> Path:
        """Trained, if the run was made on this machine."""
        return self.folder / WEIGHTS

    def configuration(self) -> list[str]:
        """Files and flags that ``fit`` and ``evaluate`` share."""
        family = FAMILIES[self.model]
        steps = self.windows // family.batch_size
        flags = [f"--seed_everything={self.seed}", f"--trainer.max_steps={steps}", f"--tasks.count={self.tasks}"]
        flags += ["--evaluation.latency_repeats=0"]
        flags.append(f"--data.init_args.batch_size={family.batch_size}")
        if family.encoder_share:
            flags.append(f"--model.init_args.config.encoder_steps={round(steps * family.encoder_share)}")
        if family.needs_encoder:
            flags.append(f"--model.init_args.encoder_weights={self.of('lewm').weights}")
        return files(self.model, f"size/{family.size}", f"data/{self.environment}", "plan/nano") + flags

    def execute(self) -> None:
        """Train and evaluate; raises ``CalledProcessError`` when either fails."""
        arguments = self.configuration()
        if FAMILIES[self.model].needs_encoder:
            encoder = self.of("lewm")
            if not encoder.weights.is_dir():  # recorded, perhaps, on another machine
                encoder.execute()
        seconds = {"fit": lightning("fit", [*arguments, *logging_into(self.folder)], self.folder)}
        evaluation = self.folder / "evaluation"
        weights = ["--weights", str(self.weights), "--out", str(evaluation)]
        seconds["evaluate"] = lightning("evaluate", [*arguments, *weights], self.folder)
        policies = read_evaluation(evaluation / "evaluation.json")["policies"]
        kept = {name: {key: policy[key] for key in ("successes", "tasks", "rate")} for name, policy in policies.items()}
        write_json(self.record, {**self.budget, "policies": kept, "cpu_seconds": seconds, "origin": origin()})

    @property
    def budget(self) -> dict[str, int]:
        """What a record must have been made with."""
        return {"windows": self.windows, "tasks": self.tasks}

    def outcome(self) -> dict[str, Any] | None:
        """What is recorded, if anything; ``SystemExit`` if that is of another budget."""
        if not self.record.is_file():
            return None
        found: dict[str, Any] = json.loads(self.record.read_text())
        refuse_another(self.record, found, self.budget)
        return found

    def of(self, model: str) -> Run:
        """The run of another model with this one's environment and seed."""
        return dataclasses.replace(
            self,
            model=model,
            folder=self.folder.parent.parent / model / self.folder.name,
            record=self.record.with_name(f"{model}-{self.seed}.json"),
        )


def table(environment: str, runs: list[Run]) -> list[str]:
    """Markdown rows of one environment, from the runs that are done."""
    done = {run: outcome for run in runs if (outcome := run.outcome())}
    lines = [
        f"## {ENVIRONMENTS[environment]}",
        "",
        f"{runs[0].windows} training windows per run.",
        "",
        "| | success, all seeds | 95 % interval | by seed | training | evaluation |",
        "|---|---|---|---|---|---|",
    ]
    for name, family in FAMILIES.items():
        found = [result for run, result in done.items() if run.model == name]
        if found:
            lines.append(f"| {family.title} | {_row([result['policies'][name] for result in found], found)} |")
    baselines = next(iter(done.values()))["policies"] if done else {}
    for name in ("random", "stay", "scripted"):
        if name in baselines:
            lines.append(f"| {name} | {_row([baselines[name]], [])} |")
    return [*lines, ""]


def _row(policies: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    successes, tasks = (sum(policy[key] for policy in policies) for key in ("successes", "tasks"))
    by_seed = ", ".join(f"{100 * policy['rate']:.0f}" for policy in policies) if runs else "–"
    minutes = [median([run["cpu_seconds"][part] for run in runs]) / 60 if runs else 0 for part in ("fit", "evaluate")]
    cpu = " | ".join(f"{value:.1f} min" if runs else "–" for value in minutes)
    return f"{100 * successes / tasks:.0f} % | {interval(successes, tasks, seeds=len(policies))} | {by_seed} | {cpu}"


_PAGE = """# Nano models side by side

Written by `python {command}`: {done} of {runs} runs. As many training windows for every model (128 per step, C-JEPA
64), {seeds} seeds, {tasks} tasks per run (the same ones for every model and seed, goals 25 steps away, budget 50,
planner of `configs/plan/nano.yaml`). A task with all its seeds is one draw: Wilson's interval is that of {tasks}
draws, which is rather too wide. Training is the median CPU time of `lightning fit` on one thread, data at hand,
evaluation that of `lightning evaluate` with its baselines; DINO-WM's training does not include its encoder's, LeWM's.

{origin}

{tables}"""


def report(runs: list[Run], options: argparse.Namespace) -> str:
    """The whole page."""
    tables = (table(name, [run for run in runs if run.environment == name]) for name in options.environments)
    done = list(filter(None, (run.outcome() for run in runs)))
    return _PAGE.format(
        command=" ".join(["benchmarks/compare.py", *sys.argv[1:]]),
        done=len(done),
        runs=len(runs),
        seeds=len(options.seeds),
        tasks=options.tasks,
        origin="\n".join(sorted({run["origin"] for run in done})),
        tables="\n".join(line for lines in tables for line in lines),
    )


def add_options(parser: argparse.ArgumentParser, page: Path) -> None:
    """Which runs, where they and their records are, and where the page goes."""
    parser.add_argument("--windows", type=int, help=f"training windows per run, instead of {WINDOWS}")
    parser.add_argument("--tasks", type=int, default=50, help="tasks per evaluation (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--environments", nargs="+", default=list(ENVIRONMENTS), choices=ENVIRONMENTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of the runs")
    parser.add_argument("--records", type=Path, default=Path("docs/results/nano"), help="folder of their outcomes")
    parser.add_argument("--out", type=Path, default=page, help="the table")
    parser.add_argument(
        "--only-table", action="store_true", help="write it from the records that are there; train nothing"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results there")
    parser.add_argument("--quick", action="store_true", help="Two-Room, 1 seed, 2560 windows, 4 tasks")


def all_runs(options: argparse.Namespace) -> list[Run]:
    """Every run that the options ask for."""
    if options.quick:
        options.windows, options.tasks, options.seeds = 2560, 4, [0]
        options.environments, options.runs = ["tworoom"], Path("runs/compare-quick")
        options.records, options.out = options.runs, options.runs / options.out.name
    return [
        Run(
            folder=(options.runs / environment / model / f"seed-{seed}").resolve(),
            record=options.records / environment / f"{model}-{seed}.json",
            model=model,
            environment=environment,
            seed=seed,
            windows=options.windows or WINDOWS[environment],
            tasks=options.tasks,
        )
        for seed in options.seeds
        for environment in options.environments
        for model in options.models
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, Path("docs/results/nano.md"))
    options = parser.parse_args()
    runs = all_runs(options)
    for number, run in enumerate(runs):
        if not run.outcome() and not options.only_table:
            print(f"{number + 1}/{len(runs)} {run.folder}", flush=True)
            run.execute()
            write_page(options.out, report(runs, options))
    write_page(options.out, report(runs, options))
    print(options.out.read_text())
    rows = [{"run": str(run.record), **outcome} for run in runs if (outcome := run.outcome())]
    Benchmark("compare", options, rows).finish()


if __name__ == "__main__":
    main()
