"""The launch templates: two processes here instead of a cluster; a few lines of shell play SLURM."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepakit.zoo import from_pretrained

CLUSTER = Path(__file__).parent.parent.parent / "configs" / "cluster"
_SRUN = """#!/usr/bin/env bash
# What srun does: the command once per task, each with its number.
export SLURM_NTASKS=2 SLURM_JOB_NAME=jepakit SLURM_JOB_ID=7 SLURM_NODEID=0 SLURM_JOB_NODELIST=localhost
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"
wait $second
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "flags", "settings"),
    [
        ("torchrun.sh", [], {}),
        ("slurm.sh", [], {}),
        ("torchrun.sh", ["-c", str(CLUSTER / "fsdp.yaml"), "--trainer.callbacks=[]"], {"STRATEGY": ""}),
    ],
)
def test_two_processes_train_together(template, flags, settings, mini_config, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(_SRUN)
    (programs / "srun").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        **{"PROCESSES": "2", "PORT": "0", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2"},
        **settings,
    }
    arguments = ["fit", *mini_config, *flags, "--trainer.accelerator=cpu", "--trainer.logger=CSVLogger"]
    arguments += [f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.name=run", "--trainer.logger.version="]
    done = subprocess.run(
        ["bash", CLUSTER / template, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr
    assert from_pretrained(tmp_path / "run" / "weights").model.config.latent_dim == 8
