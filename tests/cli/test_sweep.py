"""Sweeps: every combination once, failures named, what is done is left alone, the same in processes and on Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jepakit import cli
from jepakit.cli.sweep import execute, points
from jepakit.hub import BUILTIN
from jepakit.zoo import from_pretrained


def sweep(*arguments):
    """Run ``lightning sweep`` as a process: Ray's threads print when they like."""
    command = [Path(sys.executable).with_name("lightning"), "sweep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def outcomes(folder):
    policies = json.loads((folder / "evaluation.json").read_text())["policies"]
    return [outcome["success"] for outcome in next(iter(policies.values()))["outcomes"]]


def test_every_combination_once(tmp_path):
    found = points(["evaluate"], [["a.b", "1", "2"], ["c", "x"]], tmp_path)
    assert [point.settings for point in found] == [(("a.b", "1"), ("c", "x")), (("a.b", "2"), ("c", "x"))]
    assert [point.folder.name for point in found] == ["b=1,c=x", "b=2,c=x"]
    assert found[0].arguments == ["evaluate", "--a.b=1", "--c=x", f"--out={tmp_path / 'b=1,c=x'}"]
    with pytest.raises(ValueError, match="name the same folder"):
        points(["evaluate"], [["a", "1", "1"]], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "o", "--over", "a", "1", "--", "export"], "expected fit or evaluate"),
        (["--out", "o", "--over", "a", "1"], "expected fit or evaluate"),
        (["--out", "o", "--over", "a", "--", "fit"], "--over: found no values"),
    ],
)
def test_wrong_usage_is_named(arguments, said, capsys):
    assert cli.main(["sweep", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_results_of_another_command_are_not_taken_for_this_ones(tmp_path, capsys):
    written = tmp_path / "a=1" / "weights" / "training.json"
    written.parent.mkdir(parents=True)
    shutil.copyfile(BUILTIN / "lewm-tworoom-nano" / "training.json", written)
    command = ["sweep", "--out", str(tmp_path), "--over", "x.a", "1", "--", "fit", "-c"]
    assert cli.main([*command, "one.yaml"]) == 1
    assert "found results of an unknown command" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text('{"command": "fit -c one.yaml", "points": []}')
    assert cli.main([*command, "one.yaml"]) == 0  # nothing is left to be done
    other = tmp_path / "a=2" / "weights" / "training.json"
    other.parent.mkdir(parents=True)
    shutil.copyfile(written, other)
    assert cli.main(["sweep", "--out", str(tmp_path), "--over", "x.a", "2", "--", "fit", "-c", "one.yaml"]) == 0
    rows = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert sorted(row["settings"]["x.a"] for row in rows) == ["1", "2"]
    assert cli.main([*command, "two.yaml"]) == 1
    assert "found results of 'fit -c one.yaml', expected 'fit -c two.yaml'" in capsys.readouterr().err


_SLOW_TO_STOP = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(1)
open(sys.argv[1], "w").close()
"""


def test_an_interrupted_sweep_lets_its_trainings_save(tmp_path, monkeypatch):
    monkeypatch.setattr("jepakit.cli.sweep._PROGRAM", (sys.executable, "-c", _SLOW_TO_STOP, tmp_path / "saved"))
    [point] = points(["fit"], [["a", "1"]], tmp_path)
    log = tmp_path / "a=1.log"

    def interrupt():
        while not (log.is_file() and log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # other tests may have set another
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            execute(point, threads=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").is_file()
    assert "--ckpt_path=last" in point.arguments


@pytest.mark.slow
def test_models_are_trained_and_evaluated_in_processes_and_on_ray(mini_config, tmp_path):
    rates = ["--over", "model.init_args.optimizer.lr", "0.001", "wrong"]
    fits = ["--out", str(tmp_path / "fits"), *rates, "--", "fit", *mini_config]
    first = sweep(*fits)
    assert first.returncode == 1
    assert "failed: lr=wrong" in first.stderr
    assert "wrong" in (tmp_path / "fits" / "lr=wrong.log").read_text()
    weights = tmp_path / "fits" / "lr=0.001" / "weights"
    from_pretrained(weights)
    written = (weights / "model.safetensors").stat().st_mtime_ns
    assert sweep(*fits).returncode == 1
    assert (weights / "model.safetensors").stat().st_mtime_ns == written  # not done again
    for name, flags in {"here": ["--workers", "2"], "ray": ["--cluster", "local", "--workers", "2"]}.items():
        over = ["--over", "planner.cem.samples", "8", "16"]
        command = ["evaluate", *mini_config, "--weights", str(weights), "--evaluation.record=0"]
        done = sweep("--out", str(tmp_path / name), *flags, *over, "--", *command)
        assert done.returncode == 0, done.stderr
        rows = json.loads((tmp_path / name / "sweep.json").read_text())["points"]
        assert {row["settings"]["planner.cem.samples"] for row in rows} == {"8", "16"}
        assert rows[0]["result"]["success"] >= rows[1]["result"]["success"]
    for point in ("samples=8", "samples=16"):
        assert outcomes(tmp_path / "ray" / point) == outcomes(tmp_path / "here" / point)
