"""What the callbacks cost: one nano LeWM run on Two-Room with all of them at their defaults, timed hook by hook.

Lightning's own profiler times every hook of every callback; the rest of the run is what training alone takes. Probes
measure once, at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from harness import start
from jsonargparse import set_parsing_settings
from lightning.pytorch.profilers import SimpleProfiler
from runs import files, logging_into

from jepakit.cli.app import App

PROBES = ("LinearProbe", "MLPProbe", "SurpriseProbe", "OpenLoopError", "FidelityProbe", "PlanningProbe")
MONITORS = ("CollapseMonitor", "StraightnessMonitor")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=900, help="of the run (default: %(default)s)")
    bench = start("callbacks", __doc__, parser)
    steps = 30 if bench.quick else bench.options.steps
    torch.set_num_threads(1)
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*files("lewm", "size/nano", "data/tworoom"), *logging_into(Path(folder))]
        arguments += [f"--trainer.max_steps={steps}"]
        arguments += [f"--trainer.callbacks+=jepakit.callbacks.{name}" for name in (*MONITORS, *PROBES)]
        profiler = SimpleProfiler()
        app = App(arguments, run=False)
        app.trainer.profiler = profiler
        app.trainer.fit(app.model, datamodule=app.datamodule)
    seconds: dict[str, float] = defaultdict(float)
    within = 0.0  # of the epochs, spent in callbacks
    for action, durations in profiler.recorded_durations.items():
        if action.startswith("[Callback]"):
            name, _, hook = action.removeprefix("[Callback]").partition(".")
            seconds[name.partition("{")[0]] += sum(durations)
            within += sum(durations) if hook.startswith(("on_train_", "on_validation_")) else 0.0
    alone = sum(profiler.recorded_durations["run_training_epoch"]) - within
    bench.row(what="training alone", seconds=alone)
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        bench.row(what=name, seconds=spent)
    bench.ratio("callbacks / training alone", sum(seconds.values()) / alone)
    bench.finish()


if __name__ == "__main__":
    main()
