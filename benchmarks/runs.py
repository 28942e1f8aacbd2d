"""What benchmarks that train and evaluate nano models share: ``lightning`` as a program, their data, their pages."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import machine
from jsonargparse import set_parsing_settings

from jepakit.cli.app import App
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.planning.evaluation.provenance import commit
from jepakit.planning.evaluation.statistics import wilson_interval

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = {"tworoom": "Two-Room", "pusht": "Push-T"}
WEIGHTS = Path("training") / "weights"  # within a run's folder
#: Training windows per run: Push-T takes more before any model does better than chance.
WINDOWS = {"tworoom": 128 * 900, "pusht": 128 * 2000}
BY_HAND = "<!-- Above this line a program writes, below it people do. -->"


def files(*names: str) -> list[str]:
    """Flags for ``configs/<name>.yaml``."""
    return [part for name in names for part in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]


def logging_into(folder: Path, name: str = "training") -> list[str]:
    """Flags that put what is logged into a run's folder; of ``fit``, with the usual name, ``WEIGHTS`` too."""
    logger = {"": "CSVLogger", ".save_dir": folder, ".name": name, ".version": ""}
    return [f"--trainer.logger{key}={value}" for key, value in logger.items()]


def lightning(command: str, arguments: list[str], folder: Path) -> float:
    """Run a command on one thread, its output in ``folder``; returns the CPU seconds it took.

    Those, other than its wall time, hardly depend on what else the machine does. It runs in the repository's root, with
    paths relative to it, so that what it records beside the weights names no machine's folders. Raises
    ``CalledProcessError``.
    """
    arguments = [argument.replace(f"{ROOT}{os.sep}", "") for argument in arguments]
    folder.mkdir(parents=True, exist_ok=True)
    before = os.times()
    with (folder / f"{command}.log").open("w") as log:
        subprocess.run(
            [str(Path(sys.executable).with_name("lightning")), command, *arguments],
            check=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def load_data(environment: str, *flags: str) -> EpisodeDataModule:
    """The data on which the nano models of ``compare.py`` were trained, ready to draw tasks from."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    arguments = files("lewm", "size/nano", f"data/{environment}", "plan/nano")
    data: EpisodeDataModule = App([*arguments, "--trainer.logger=false", *flags], run=False).datamodule
    data.prepare_data()
    data.setup("test")
    return data


def interval(successes: int, tasks: int, *, seeds: int = 1) -> str:
    """Wilson's 95 % interval in per cent, ``successes`` and ``tasks`` over all seeds together.

    Seeds share tasks, so a task is one draw, not several: its mean over the seeds varies at most as much as an outcome.
    """
    low, high = wilson_interval(successes / seeds, tasks // seeds)
    return f"{100 * low:.0f} – {100 * high:.0f} %"


def origin() -> str:
    """Machine, versions and commit, as a line for a page; kept beside a result, it says where that came from."""
    host = machine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "numpy"))
    return f"{host['cpu']}, {host['cores']} cores, Python {host['python']}, {packages}, commit {commit()}."


def refuse_another(record: Path, found: dict[str, Any], expected: dict[str, int]) -> None:
    """``SystemExit`` unless a recorded outcome was found with the budget that is asked for."""
    for name, value in expected.items():
        if found[name] != value:
            raise SystemExit(f"{record}: {name}: found {found[name]}, expected {value}; give another folder, --records")


def write_page(file: Path, text: str) -> None:
    """Write a page; what was written by hand below ``BY_HAND`` stays there."""
    known = file.read_text(encoding="utf-8") if file.is_file() else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text.rstrip()}\n\n{BY_HAND}{known.partition(BY_HAND)[2] or chr(10)}", encoding="utf-8")
