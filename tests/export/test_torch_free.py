"""Planning from a bundle needs NumPy, PyYAML and onnxruntime, and old enough Python for a robot."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

CODE = """
import sys

BLOCKED = {"torch", "lightning", "onnx", "onnxscript", "transformers", "safetensors", "gymnasium"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())

import numpy as np
from jepakit.export import Bundle
from jepakit.export.runtime import open_backend

backend = open_backend(sys.argv[1], engine="onnx")
settings = Bundle.open(sys.argv[1]).planner_config
planner = settings.planner(backend)
frames = np.random.default_rng(0).integers(0, 256, (1, 2, 16, 16, 3), dtype=np.uint8)
seen = planner.observe(frames, np.zeros((1, 1, 6), np.float32))
goal = planner.encode_goal(frames[:, 0])
print(planner.plan(seen, goal, horizon=2, rngs=[np.random.default_rng(0)]).actions.tolist())
assert not {"torch", "lightning", "jepakit.zoo", "jepakit.datamodules"} & set(sys.modules)
"""


def test_planning_from_a_bundle_needs_no_torch(lewm):
    done = subprocess.run(
        [sys.executable, "-c", CODE, lewm.bundle.folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    actions = ast.literal_eval(done.stdout)
    assert len(actions[0]) == 2
    assert len(actions[0][0]) == 6


def test_what_runs_on_the_robot_is_python_3_10():
    files = [*(ROOT / "planning").rglob("*.py"), *(ROOT / "export" / "runtime").glob("*.py")]
    files += [ROOT / "export" / name for name in ("__init__.py", "bundle.py", "tensorrt.py")]
    assert len(files) > 15
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))
