"""The script for a GPU measures what its rows say; it runs on a CPU, too."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "gpu" / "run_all.py"


@pytest.fixture(scope="module")
def run_all():
    spec = importlib.util.spec_from_file_location("run_all", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path  # the script adds the folder of its neighbours
    return module


def test_fp32_means_fp32_in_convolutions_too(run_all):
    def switches():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = switches()
    for enabled, expected in ((True, ("high", True)), (False, ("highest", False))):
        with run_all.tf32(enabled):
            assert switches() == expected
        assert switches() == before


def test_both_phases_of_c_jepa_are_what_they_are_called(run_all):
    terms = {}
    for name, (build, windows) in run_all.families(quick=True).items():
        if name.startswith("C-JEPA"):
            model = build()
            terms[name] = set(model.losses(run_all.make_batch(model.config, windows)).terms)
    assert set(terms) == {"C-JEPA, object encoder", "C-JEPA, predictor"}
    assert "reconstruction" in terms["C-JEPA, object encoder"]
    assert "reconstruction" not in terms["C-JEPA, predictor"]


def test_operations_are_counted_by_hand(run_all):
    layer, x = torch.nn.Linear(3, 5, bias=False), torch.ones(2, 3, requires_grad=True)
    forward = 2 * 2 * 3 * 5
    assert run_all.operations(layer, lambda: layer(x).sum()) == 3 * forward  # and two gradients
    assert layer.weight.grad is None


def test_rows_of_training_name_their_own_operations_and_precision(run_all, monkeypatch):
    switches = []

    def timed(*_):
        switches.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return 1.0

    lewm = {"LeWM": run_all.families(quick=True)["LeWM"]}
    monkeypatch.setattr(run_all, "timed", timed)
    monkeypatch.setattr(run_all, "families", lambda _: lewm)
    bench = run_all.Benchmark("gpu", argparse.Namespace(quick=True))
    run_all.training(bench, {"fp32": 1.0, "bf16": 1.0}, repeats=1)
    assert set(switches) == {("highest", False)}
    build, windows = lewm["LeWM"]
    config = build().config
    batch = run_all.make_batch(config, windows)
    plain, ours = run_all.make_pair(config)
    expected = {
        "plain": run_all.operations(plain, run_all.plain_loss(plain, config, batch)),
        "jepakit": run_all.operations(ours, lambda: ours.losses(batch).total),
    }
    assert {row["case"]: row["mfu"] for row in bench.rows} == expected
    assert expected["plain"] != expected["jepakit"]


def test_the_pieces_of_the_long_training_are_cut_from_outside():
    """Lightning's own clock is in the checkpoint and goes on: after a first piece it leaves nothing for a second."""
    text = (SCRIPT.parent / "README.md").read_text().replace("\\\n", " ")
    (command,) = (line for line in text.splitlines() if "lightning fit" in line and line.endswith("--ckpt_path last"))
    assert "max_time" not in command
    # SIGTERM, not SIGKILL: the state is saved, and the exit code says that it was cut
    assert command.split()[:5] == ["timeout", "--preserve-status", "-s", "TERM", "540"]
