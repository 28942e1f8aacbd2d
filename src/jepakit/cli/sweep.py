"""``lightning sweep``: one command with every combination of some settings, several at once, here or on a Ray cluster.

Every combination is a process of its own with a folder and a log; one that fails leaves the others alone. What is done
is not done again: the same command goes on after an interruption, a training from where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jepakit.cli import log_into
from jepakit.planning.evaluation.files import write_json
from jepakit.results import read_evaluation, read_training
from jepakit.workers import each_result

RECORD = "sweep.json"
_PROGRAM = (sys.executable, "-c", "import sys; from jepakit.cli import main; sys.exit(main())")
_USAGE = """%(prog)s [--workers N] [--cluster ADDRESS] --out FOLDER --over KEY VALUE ... [--over ...] -- COMMAND ...

  lightning sweep --out runs/chosen --over planner.cem.samples 32 128 --over planner.cem.iterations 2 6 -- \\
    evaluate -c configs/lewm.yaml -c configs/size/nano.yaml -c configs/data/tworoom.yaml --tasks.split val \\
    --weights builtin:lewm-tworoom-nano"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination: its settings, and the command without them."""

    folder: Path
    command: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]

    @property
    def arguments(self) -> list[str]:
        """The whole command; what it writes goes into the folder."""
        flags = [f"--{key}={value}" for key, value in self.settings]
        if self.command[0] == "evaluate":
            return [*self.command, *flags, f"--out={self.folder}"]
        return [*self.command, *flags, *log_into(self.folder), "--ckpt_path=last"]

    def result(self) -> dict[str, Any] | None:
        """What the command left, ``None`` if it did not get there."""
        if self.command[0] == "evaluate":
            file = self.folder / "evaluation.json"
            return _evaluated(file) if file.is_file() else None
        file = self.folder / "weights" / "training.json"
        return {"weights": str(file.parent), "steps": read_training(file)["steps"]} if file.is_file() else None


def _evaluated(file: Path) -> dict[str, Any]:
    """The model's line of an evaluation, which is the first."""
    found = next(iter(read_evaluation(file)["policies"].values()))
    latency = found["latency_ms"]
    low, high = found["interval95"]
    return {"success": found["rate"], "low": low, "high": high, "plan_p50_ms": latency and latency["p50"]}


def points(command: Iterable[str], over: Iterable[list[str]], out: Path) -> list[Point]:
    """Every combination of the settings, each with a folder that is named after them."""
    command = tuple(command)
    axes = [[(key, value) for value in values] for key, *values in over]
    found = []
    for settings in itertools.product(*axes):
        name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings)
        found.append(Point(folder=out / name.replace(os.sep, "_"), command=command, settings=settings))
    folders = [point.folder for point in found]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"--over: found settings that name the same folder, such as {folders[0].name}; expected others"
        )
    return found


def execute(point: Point, *, threads: int) -> int:
    """Run a point unless it is done; its output goes into a file beside the folder; returns the exit code."""
    if point.result() is not None:
        return 0
    point.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with point.folder.with_name(f"{point.folder.name}.log").open("w") as log:
        command = [*_PROGRAM, *point.arguments]
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
            try:
                return process.wait()
            except BaseException:
                process.terminate()  # a training finishes its step and saves, even if the Ctrl-C reached it too
                process.wait()
                raise


def run(arguments: list[str]) -> int:
    """Run all points and print their table; returns 1 if one failed, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="lightning sweep", usage=_USAGE, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of results, logs and sweep.json")
    over = {"action": "append", "nargs": "+", "required": True, "metavar": ("KEY", "VALUE")}
    parser.add_argument("--over", **over, help="a setting and its values")  # type: ignore[arg-type]
    parser.add_argument("--workers", type=int, default=1, help="processes at once; 0: as many as cores [%(default)s]")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="a Ray cluster: auto, local or its address; FOLDER is shared"
    )
    given, command = _split(arguments[1:])
    options = parser.parse_args(given)
    if not command or command[0] not in ("fit", "evaluate"):
        parser.error(f"found {command[:1]} after --, expected fit or evaluate with its arguments")
    if any(len(axis) < 2 for axis in options.over):
        parser.error("--over: found no values, expected KEY VALUE [VALUE ...]")
    sweep = points(command, options.over, options.out.resolve())
    _claim(sweep, options.out / RECORD)
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // min(options.workers or cores, len(sweep)))
    work = partial(execute, threads=threads)
    for count, _ in enumerate(each_result(work, sweep, workers=options.workers, cluster=options.cluster), 1):
        print(f"{count} of {len(sweep)} done", flush=True)
    return _conclude(sweep, options.out)


def _claim(sweep: list[Point], record: Path) -> None:
    """Write the command down before anything runs; ``ValueError`` where there are results of another one."""
    command = shlex.join(sweep[0].command)
    if record.is_file():
        found = json.loads(record.read_text())["command"]
        if found != command:
            raise ValueError(f"{record}: found results of {found!r}, expected {command!r}; give another --out")
        return
    for point in sweep:
        if point.result() is not None:
            raise ValueError(f"{point.folder}: found results of an unknown command, expected none; give another --out")
    write_json(record, {"command": command, "points": []})


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What comes before ``--`` and what comes after."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _conclude(sweep: list[Point], out: Path) -> int:
    """Write ``sweep.json``, best success first, and print this sweep's part of it.

    Points of earlier sweeps of the same command stay in it.
    """
    from rich.console import Console
    from rich.table import Table

    found = [(point, point.result()) for point in sweep]
    found.sort(key=lambda pair: _success(pair[1]), reverse=True)
    rows = [{"settings": dict(point.settings), "result": result} for point, result in found]
    mine = [row["settings"] for row in rows]
    earlier = json.loads((out / RECORD).read_text())["points"]
    rows += [row for row in earlier if row["settings"] not in mine]
    rows.sort(key=lambda row: _success(row["result"]), reverse=True)
    write_json(out / RECORD, {"command": shlex.join(sweep[0].command), "points": rows})
    figures = list(next((result for _, result in found if result), {}))
    table = Table(*(key for key, _ in sweep[0].settings), *figures)
    for point, result in found:
        shown = (_shown((result or {}).get(name)) for name in figures)
        table.add_row(*(value for _, value in point.settings), *shown)
    Console().print(table)
    failed = [point for point, result in found if result is None]
    for point in failed:
        print(f"failed: {point.folder.name}; see {point.folder}.log", file=sys.stderr)
    return int(bool(failed))


def _success(result: dict[str, Any] | None) -> float:
    return float((result or {}).get("success", -1.0))


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
