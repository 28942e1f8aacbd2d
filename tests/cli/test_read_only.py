"""Folders that may not be written to are named, by commands in processes that the system itself denies them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepakit.zoo import LeWMConfig, LeWMModel, save_pretrained

# Root may write anywhere until it gives that up.
UNPRIVILEGED = [
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search"),
    *("--inh-caps", "-dac_override,-dac_read_search"),
]


@pytest.fixture
def locked(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


@pytest.fixture
def refused(locked):
    """Run ``lightning``; returns what it said when it was denied ``locked``, in which it left nothing."""

    def run(*arguments):
        command = [*(UNPRIVILEGED if os.geteuid() == 0 else []), Path(sys.executable).with_name("lightning")]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert not list(locked.iterdir())
        return " ".join(done.stderr.split())

    return run


def test_a_run_that_cannot_be_written_does_not_begin(refused, locked, mini_config):
    said = refused("fit", *mini_config, f"--trainer.logger.init_args.save_dir={locked}")
    assert "Permission denied" in said
    assert str(locked) in said


def test_data_that_cannot_be_written_are_not_generated(refused, locked, mini_config, tmp_path):
    overlay = tmp_path / "elsewhere.yaml"
    overlay.write_text(f"data: {{init_args: {{generate: {{root: {locked}}}}}}}\n")
    said = refused("data", "collect", *mini_config, "-c", str(overlay))
    assert "Permission denied" in said
    assert str(locked) in said


def test_a_bundle_that_cannot_be_written_is_named(refused, locked, mini_config, tmp_path):
    small = {"predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 8}
    sizes = {"cnn_channels": (4, 8, 8), "latent_dim": 8, "projector_hidden": 16, "action_hidden": 16}
    model = LeWMModel(LeWMConfig(image_size=16, encoder="cnn", predictor_mlp=16, directions=16, **small, **sizes))
    weights = save_pretrained(model, tmp_path / "weights")
    unbounded = "--planner.bounded=false"  # these weights have seen no data, whose bounds they would know
    said = refused("export", *mini_config, "--weights", str(weights), "--out", str(locked / "bundle"), unbounded)
    assert "Permission denied" in said
    assert str(locked) in said
