"""Two processes learn from a batch what one does, and one that dies takes the other with it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from jepakit.datamodules.collect import Collection, collect

WORKER = Path(__file__).with_name("ddp_worker.py")
TWO = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    collection = Collection(
        env="jepakit.envs.tworoom:TwoRoom",
        policy="jepakit.envs.tworoom:TwoRoomExplorer",
        episodes=12,
        steps=40,
        image_size=32,
    )
    return collect(collection, tmp_path_factory.mktemp("data"), workers=1)


def run(program, *arguments):
    command = [sys.executable, *program, WORKER, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    ("mode", "families"),
    [
        ([], {"lewm", "fastlewm", "pldm", "dinowm", "cjepa", "vjepa"}),
        (["sharded"], {"fastlewm", "cjepa", "vjepa"}),
    ],
)
def test_two_processes_learn_what_one_learns(mode, families, store, tmp_path):
    curves = {}
    for name, program in {"one": [], "two": TWO}.items():
        folder = tmp_path / name
        folder.mkdir()
        done = run(program, store, folder, *mode)
        assert done.returncode == 0, done.stderr
        curves[name] = json.loads((folder / "losses.json").read_text())
    assert set(curves["one"]) == families
    for family, alone in curves["one"].items():
        assert len(alone) == 20
        assert all(map(math.isfinite, alone))
        assert curves["two"][family] == pytest.approx(alone, rel=1e-5), family


def test_a_process_that_dies_ends_the_run_with_a_message(store, tmp_path):
    done = run(TWO, store, tmp_path, "dies")
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr  # torchrun names the signal and the rank
    assert not (tmp_path / "losses.json").exists()


def test_processes_leave_when_what_they_sent_is_done(store, tmp_path):
    """Without ``leave`` most such runs are aborted: gloo's threads meet a Python that is on its way out."""
    done = run(TWO, store, tmp_path, "leaves")
    assert done.returncode == 0, done.stderr
