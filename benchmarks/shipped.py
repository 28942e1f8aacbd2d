"""The default planner of every shipped model: what its validation tasks choose, and what that does on test tasks.

Every shipped world model plans with the same few searches on the same validation tasks: plans executed whole, as the
papers do, and ``timed``, continued after every block so as to end when the goal is due (``mpc.arrival``). Where a
controller ships with it, that acts, too, and proposes to searches. The planner with the highest success is chosen, the
quicker of equals. Its settings, an evaluation with them on test tasks, the usual probes and a card go to ``--runs``;
with ``--install`` also to ``configs/plan/builtin/<model>.yaml`` and ``zoo/builtin/<model>``. What is there is not done
again. A page is made of the records of all models.

    python benchmarks/shipped.py --models lewm-pusht-nano --install
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from beyond_planners import HORIZON, SEARCHES, proposed, search
from compare import FAMILIES
from harness import Benchmark, start
from runs import ROOT, files, interval, lightning, load_data, origin, write_page

from jepakit.cli.evaluation import EvaluationPlannerConfig
from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.hub import BUILTIN, builtin_names
from jepakit.planning.evaluation import EvaluationConfig, evaluate
from jepakit.planning.evaluation.files import write_json
from jepakit.zoo import from_pretrained
from jepakit.zoo.publish import CARD_FILE, EVALUATION_FILE, publish

OFFSET = 25
CONTROLLER = "-controller"  # ends the names of shipped controllers
PROBES = ("LinearProbe", "OpenLoopError", "SurpriseProbe", "FidelityProbe")


def candidates(model: str) -> dict[str, dict[str, Any]]:
    """Every planner's plain values by its name."""
    searches = {name: SEARCHES[name] for name in ("CEM 64×4", "iCEM 64×4", "random shooting 32×3")}
    whole = {"horizon": HORIZON, "execute_blocks": HORIZON}
    often = {"horizon": HORIZON, "execute_blocks": 1}
    timed = {**often, "arrival": OFFSET, "warm_start": True}
    planners = {"CEM 128×6": {**search("cem", 128, 6, elites=16), "mpc": whole}}
    planners |= {name: {**settings, "mpc": whole} for name, settings in searches.items()}
    planners |= {f"timed {name}": {**settings, "mpc": timed} for name, settings in searches.items()}
    if f"{model}{CONTROLLER}" in builtin_names():
        asked = {"offset": OFFSET, "least_offset": 5}
        theirs = {"controller_weights": f"builtin:{model}{CONTROLLER}", "controller": asked}
        planners["controller"] = {"solver": "controller", **theirs, "mpc": often}
        planners |= proposed({**theirs, "proposals": True, "mpc": timed})
    return {name: {**settings, "bounded": True, "threads": 1} for name, settings in planners.items()}


def choose(model: str, tasks: int, record: Path, *, quick: bool) -> dict[str, Any]:
    """Run every planner on validation tasks; returns what is recorded: ``rows`` and the name that is ``chosen``."""
    if not record.is_file():
        world = from_pretrained(f"builtin:{model}").model
        policies = {}
        for name, values in candidates(model).items():
            settings = EvaluationPlannerConfig.parse(values, where=name)
            policies[name] = settings.policy(settings.backend(world))
            if quick and len(policies) == 2:
                break
        data = load_data(model.split("-")[1])
        manifest = tasks_of(data, TaskConfig(count=tasks, offset=OFFSET, split="val"))
        config = EvaluationConfig(latency_repeats=2 if quick else 20)
        rows = []
        for found in evaluate(policies, environment_factory(data), manifest, config).policies:
            assert found.latency is not None
            rows.append({"planner": found.name, "success": found.rate, "p50_ms": found.latency.p50})
        best = min(rows, key=lambda row: (-row["success"], row["p50_ms"]))
        write_json(record, {"rows": rows, "chosen": best["planner"], "tasks": tasks, "origin": origin()})
    known: dict[str, Any] = json.loads(record.read_text())
    return known


def write_overlay(file: Path, model: str, chosen: dict[str, Any]) -> None:
    """Write the chosen settings for ``lightning evaluate -c``."""
    name = chosen["chosen"]
    comment = (
        f"# {name}: what {chosen['tasks']} validation tasks chose for builtin:{model} (benchmarks/shipped.py).\n"
        f"# Put it after a model's file. Goals are taken to be {OFFSET} environment steps away.\n"
    )
    values = {"planner": candidates(model)[name]}
    file.write_text(comment + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def release(model: str, bench: Benchmark, folder: Path) -> None:
    """Choose, evaluate, probe, and write the card."""
    options = bench.options
    tasks = 4 if bench.quick else options.tasks
    record = options.records / f"{model}.json"
    chosen = choose(model, tasks, record, quick=bench.quick)
    for row in chosen["rows"]:
        bench.row(model=model, split="val", **row)
    overlay = folder / "planner.yaml"
    write_overlay(overlay, model, chosen)
    family, environment = model.split("-")[:2]
    configuration = files(family, f"size/{FAMILIES[family].size}", f"data/{environment}")
    given = [*configuration, "-c", str(overlay), "--weights", f"builtin:{model}"]
    result = folder / "evaluation" / EVALUATION_FILE
    if not result.is_file():
        split = [f"--tasks.count={2 * tasks}", f"--tasks.offset={OFFSET}", "--tasks.split=test"]
        lightning("evaluate", [*given, *split, "--out", str(result.parent)], folder)
    tested = json.loads(result.read_text())["policies"]
    kept = {name: {key: tested[name][key] for key in ("successes", "tasks")} for name in (family, "random")}
    write_json(record, {**chosen, "test": {"model": kept[family], "random": kept["random"]}})
    mine, random = tested[family], tested["random"]["rate"]
    bench.row(model=model, split="test", planner=chosen["chosen"], success=mine["rate"], random=random)
    bench.ratio(f"{model}: success / random's", mine["rate"] / max(random, 1 / (2 * tasks)))
    probes = folder / "probes"
    if not probes.is_dir() and not bench.quick:
        added = [f"--trainer.callbacks+=jepakit.callbacks.{name}" for name in PROBES]
        lightning("probe", [*given, *added, "--trainer.logger=false", "--out", str(probes)], folder)
    shutil.rmtree(folder / "weights", ignore_errors=True)
    shutil.rmtree(folder / "published", ignore_errors=True)
    shutil.copytree(BUILTIN / model, folder / "weights")  # beside evaluation and probes, as a card needs them
    publish(folder / "weights", f"builtin:{model}", dry_run=folder / "published")
    if options.install:
        for name in (CARD_FILE, EVALUATION_FILE):
            shutil.copyfile(folder / "published" / name, BUILTIN / model / name)
        shutil.copyfile(overlay, ROOT / "configs" / "plan" / "builtin" / f"{model}.yaml")


_PAGE = """# What the shipped models plan with

Written by `python {command}`. The same validation tasks for all planners of an environment, goals {offset} steps away,
budget twice that, PyTorch on one thread. Bold: the highest success, the quicker of equals; with it, the model is
evaluated once, on test tasks. "Timed" searches are continued after every block so as to end when the goal is due, the
others execute their five blocks. Milliseconds are those of a decision, encoding included.

{origin}

{tables}"""


def page(records: list[Path]) -> str:
    """The page of all models that are recorded."""
    lines, origins = [], set()
    for file in records:
        record = json.loads(file.read_text())
        origins.add(record["origin"])
        lines += [f"## {file.stem}", "", f"| | solved of {record['tasks']} | ms |", "|---|---|---|"]
        for row in record["rows"]:
            name = f"**{row['planner']}**" if row["planner"] == record["chosen"] else row["planner"]
            lines.append(f"| {name} | {100 * row['success']:.0f} % | {row['p50_ms']:.3g} |")
        test, random = record["test"]["model"], record["test"]["random"]
        lines += [
            "",
            f"On {test['tasks']} test tasks: {100 * test['successes'] / test['tasks']:.1f} % "
            f"({interval(test['successes'], test['tasks'])}), "
            f"random actions {100 * random['successes'] / random['tasks']:.1f} %.",
            "",
        ]
    command = " ".join(["benchmarks/shipped.py", *sys.argv[1:]])
    return _PAGE.format(command=command, offset=OFFSET, origin="\n".join(sorted(origins)), tables="\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = [name for name in builtin_names() if not name.endswith(CONTROLLER)]
    parser.add_argument("--models", nargs="+", default=shipped, choices=shipped)
    parser.add_argument("--tasks", type=int, default=100, help="validation tasks; twice as many test tasks")
    parser.add_argument("--runs", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--records", type=Path, default=Path("docs/results/shipped"), help="folder of what was chosen")
    parser.add_argument("--out", type=Path, default=Path("docs/results/shipped.md"), help="the page")
    parser.add_argument("--install", action="store_true", help="put what was found into configs/plan and zoo/builtin")
    bench = start("shipped", __doc__, parser)
    options = bench.options
    keep_freed_memory()
    if bench.quick:
        options.models, options.install = options.models[:1], False
        options.runs = options.records = Path("runs/shipped-quick")
        options.out = options.runs / "shipped.md"
        shutil.rmtree(options.runs, ignore_errors=True)
    for model in options.models:
        folder = (options.runs / model).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        release(model, bench, folder)
    write_page(options.out, page(sorted(options.records.glob("*.json"))))
    bench.finish()


if __name__ == "__main__":
    main()
