"""A configuration small enough to train in a second, as a user would write it."""

from pathlib import Path

import lightning  # noqa: F401 (its log handler keeps the error stream of its import, which must not be a test's)
import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def mini_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    overlay = folder / "mini.yaml"
    overlay.write_text(f"""
model:
  init_args:
    config: {{cnn_channels: [4, 8, 8], latent_dim: 8, projector_hidden: 16, action_hidden: 16, predictor_width: 16,
             predictor_depth: 1, predictor_heads: 2, predictor_head_dim: 8, predictor_mlp: 16, directions: 16}}
data:
  init_args:
    generate: {{root: {folder / "data"}, episodes: 30, steps: 50, workers: 1}}
    image_size: 16
    batch_size: 8
trainer:
  max_steps: 3
  log_every_n_steps: 1
  num_sanity_val_steps: 0
planner:
  cem: {{samples: 16, elites: 4, iterations: 2}}
tasks: {{count: 5}}
evaluation: {{record: 1, latency_repeats: 3, latency_warmup: 1}}
""")
    return ["-c", str(ROOT / "configs" / "demo.yaml"), "-c", str(overlay)]
