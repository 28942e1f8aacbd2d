"""A Hub of our own, and the real client's settings pointed at it: in a process of its own, as it reads them once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepakit.zoo import LeWMModel, save_pretrained

sys.path.insert(0, str(Path(__file__).parent))
from server import Hub

LEWM = {
    **{"image_size": 16, "frame_skip": 2, "history": 2, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8},
    **{"projector_hidden": 12, "predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1},
}


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(hub, tmp_path):
    """Run steps with the real client against the server, in one process; returns what each of them printed as JSON."""

    def run(*steps, token=True, fails=False, home="home", offline=False, humble=False):
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            **{"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / home), "HF_HUB_DISABLE_TELEMETRY": "1"},
            **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"},
            **({"HF_TOKEN": hub.token} if token else {}),
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        }
        # Root may write everywhere unless it gives that up.
        prefix = ["setpriv", "--bounding-set", "-all", "--"] if humble and os.geteuid() == 0 else []
        done = subprocess.run(
            [*prefix, sys.executable, "-c", "\n".join(["import json", *steps])],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if fails:
            assert done.returncode != 0, done.stdout
            return done.stderr
        assert done.returncode == 0, done.stderr
        found = [json.loads(line.removeprefix("json: ")) for line in done.stdout.splitlines() if "json: " in line]
        assert len(found) == len(steps)
        return found if len(found) > 1 else found[0]

    return run


@pytest.fixture
def lewm():
    """The sizes of a tiny LeWM."""
    return LEWM


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    return save_pretrained(LeWMModel(LEWM), tmp_path / "run" / "weights")
