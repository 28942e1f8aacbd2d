"""Checkpoints: whole or not there, the right one to go on from; and ends of a training that lose nothing."""

import csv
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepakit import checkpoints, cli
from jepakit.checkpoints import AtomicCheckpointIO, newest_checkpoint, newest_run
from jepakit.datamodules import collect as collect_module
from jepakit.zoo.module import TrainingModule

CAMPAIGN = Path(__file__).parent.parent / "campaigns" / "resume.py"


def test_a_training_killed_at_random_ends_as_one_that_was_not():
    done = subprocess.run(
        [sys.executable, CAMPAIGN, "--quick"], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "kills: 4\n" in done.stdout
    assert "different at the end: nothing" in done.stdout


# -- files ------------------------------------------------------------------------------------------------------------
def write(folder, name, step, *, bytes_left=None):
    file = folder / name
    AtomicCheckpointIO().save_checkpoint({"global_step": step}, file)
    os.utime(file, ns=(step, step))
    if bytes_left is not None:
        content = file.read_bytes()[:bytes_left]
        file.write_bytes(content)
        os.utime(file, ns=(step, step))
    return file


def test_the_newest_whole_checkpoint_is_chosen(tmp_path):
    folder = tmp_path / "version_0" / "checkpoints"
    old = write(folder, "last.ckpt", 1)
    new = write(folder, "epoch=1.ckpt", 2)
    (folder / ".partial-1").write_bytes(new.read_bytes()[:100])
    assert newest_checkpoint(folder) == new
    for size in (0, 1, 300, new.stat().st_size - 1):
        cut = write(folder, "stopped.ckpt", 3, bytes_left=size)
        with pytest.warns(UserWarning, match=r"stopped.ckpt: not a whole checkpoint, passed over for an older one"):
            assert newest_checkpoint(folder) == new
    cut.unlink()
    new.unlink()
    assert newest_checkpoint(folder) == old
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_run_with_a_checkpoint_is_chosen(tmp_path):
    assert newest_run(tmp_path) is None
    for version in (2, 9, 10):
        write(tmp_path / f"version_{version}" / "checkpoints", "last.ckpt", version)
    (tmp_path / "version_11").mkdir()
    (tmp_path / "version_other").mkdir()
    assert newest_run(tmp_path) == 10


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(tmp_path):
    file = write(tmp_path, "last.ckpt", 1)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"last.ckpt: the checkpoint cannot be written \(File too large\); .* make room"
        ):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(50_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.load(file, weights_only=True) == {"global_step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checkpoints.tempfile, "mkstemp", read_only)
    with pytest.raises(OSError, match=r"last.ckpt: the checkpoint cannot be written \(Read-only file system\)"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")


def test_leftovers_of_killed_writers_go(tmp_path):
    (tmp_path / ".partial-abc").write_bytes(b"half")
    write(tmp_path, "last.ckpt", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


# -- the command line -------------------------------------------------------------------------------------------------
@pytest.fixture
def fit(mini_config, tmp_path):
    """Run ``lightning fit`` with six steps and a folder under the test's; returns the exit code."""

    def run(name, *flags):
        logger = {"save_dir": tmp_path, "name": name}
        arguments = [f"--trainer.logger.init_args.{key}={value}" for key, value in logger.items()]
        return cli.main(["fit", *mini_config, *arguments, "--trainer.max_steps=6", "--ckpt_path=last", *flags])

    return run


@pytest.fixture
def at_step(monkeypatch):
    """Do something in the middle of a training step, once."""

    def install(step, action):
        def happen(module, batch, index):
            if module.global_step == step:
                monkeypatch.undo()
                action()

        monkeypatch.setattr(TrainingModule, "on_train_batch_start", happen)

    return install


def rows(file):
    with file.open(newline="") as lines:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


def test_ctrl_c_and_the_same_command_again(fit, at_step, tmp_path, capfd):
    assert fit("whole") == 0
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert fit("run") == 130
    run = tmp_path / "run"
    assert "saved in" in capfd.readouterr().err
    assert not (run / "weights").exists()
    assert fit("run") == 0
    printed = capfd.readouterr()
    assert f"going on from {run / 'checkpoints' / 'stopped.ckpt'}" in printed.out
    one, other = (load_file(tmp_path / name / "weights" / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    whole = rows(tmp_path / "whole" / "metrics.csv")
    assert rows(run / "metrics.csv") == [row for row in whole if row[0] != "3"]  # see KeepCurves
    assert len(whole) == 6
    assert fit("run") == 0  # it was done already


def test_sigterm_ends_with_143(fit, at_step, tmp_path):
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert fit("run") == 143
    assert (tmp_path / "run" / "checkpoints" / "stopped.ckpt").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_the_job_stops_it_gracefully(fit, at_step, number, code, tmp_path):
    def signal_all():
        loaders = multiprocessing.active_children()
        assert loaders
        # From another process: a loader that its own parent asks leaves without a complaint.
        subprocess.run(["kill", f"-{int(number)}", *(str(process.pid) for process in loaders)], check=True)
        threading.Timer(1.0, os.kill, (os.getpid(), number)).start()  # which needs them until then

    at_step(3, signal_all)
    endless = ["--data.num_workers=1", "--trainer.max_steps=100000", "--trainer.max_epochs=null"]
    assert fit("run", *endless) == code
    stopped = torch.load(tmp_path / "run" / "checkpoints" / "stopped.ckpt", weights_only=True)
    assert stopped["global_step"] > 4
    assert not multiprocessing.active_children()


def test_pieces_of_a_training_add_up(fit, at_step, tmp_path):
    for step in (2, 4):
        at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert fit("run") == 143
        stopped = torch.load(tmp_path / "run" / "checkpoints" / "stopped.ckpt", weights_only=True)
        assert stopped["global_step"] == step + 1
    assert fit("run") == 0


def test_flags_win_over_the_checkpoint_and_the_change_is_said(fit, at_step, tmp_path):
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert fit("run") == 130
    with pytest.warns(UserWarning, match=r"config\.lambda_ .* is now 0\.5; optimizer\.lr .* is now 0\.001"):
        assert fit("run", "--model.config.lambda_=0.5", "--model.optimizer.lr=0.001") == 0
    assert '"lambda_": 0.5' in (tmp_path / "run" / "weights" / "config.json").read_text()


def test_ctrl_c_during_the_generation_of_data_keeps_what_is_there(fit, tmp_path, monkeypatch):
    made, original = [], collect_module._make_shard

    def interrupted(settings, folder, shard):
        if made:
            raise KeyboardInterrupt
        made.append(original(settings, folder, shard))
        return made[0]

    monkeypatch.setattr(collect_module, "_make_shard", interrupted)
    where = f"--data.generate.root={tmp_path / 'data'}"
    assert fit("run", where) == 130
    kept = [path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("shard-00000")]
    monkeypatch.undo()
    assert fit("run", where) == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("shard-00000")] == kept != []


def test_last_needs_a_folder_with_a_number(mini_config, capsys):
    assert cli.main(["fit", *mini_config, "--trainer.logger=false", "--ckpt_path=last"]) == 1
    assert "ckpt_path: found 'last' with a logger that numbers no folders" in capsys.readouterr().err
