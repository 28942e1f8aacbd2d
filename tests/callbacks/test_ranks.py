"""What callbacks decide, they decide alike on all processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("ranks_worker.py")
TWO = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


def run(mode, store, folder):
    """Train in two processes; what each of them wrote."""
    command = [sys.executable, *TWO, WORKER, mode, store, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_checkpoints_and_early_stopping_watch_a_probe(tworoom_store, tmp_path):
    first, second = run("probe", tworoom_store, tmp_path)
    assert first == second
    assert (first["best"], first["epochs"]) == (1.0, 4)
    assert first["path"].startswith(str(tmp_path / "best" / "epoch=1"))


def test_all_make_the_passes_that_an_estimate_takes(tworoom_store, tmp_path):
    """By its own clock the second would stop at four windows, and the first would wait for it."""
    first, second = run("estimate", tworoom_store, tmp_path)
    assert first == second
    assert first["passes"] == [4, 4, 4, 8, 8, 16, 16]
    assert first["seconds_per_step"] == pytest.approx(0.9)
