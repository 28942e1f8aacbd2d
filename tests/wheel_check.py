"""Run by .ci/run in an environment with the wheel's core dependencies only, outside the checkout.

Given a bundle, it also plans from that, which takes onnxruntime.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jepakit
import jepakit.planning
from jepakit.cli import main, with_packaged_configs
from jepakit.hub import BUILTIN, builtin_names

package = Path(jepakit.__file__).parent
assert "site-packages" in str(package), package
assert importlib.util.find_spec("torch") is None, "this environment must not have torch"
for name in ("zoo", "datamodules", "envs", "callbacks", "planning", "export", "cli"):
    assert (package / name / "__init__.py").is_file(), name
    assert not (package / name).is_symlink(), name
[_, config] = with_packaged_configs(["-c", "configs/lewm.yaml"])
assert Path(config).is_file(), config
assert Path(config).is_relative_to(package), config
assert BUILTIN.is_relative_to(package), BUILTIN
assert "lewm-tworoom-nano" in builtin_names(), builtin_names()
for name in builtin_names():
    for file in ("config.json", "model.safetensors", "training.json", "README.md"):
        assert (BUILTIN / name / file).is_file(), f"{name}/{file}"
assert main(["--help"]) == 0
lightning = Path(sys.executable).with_name("lightning")
answer = subprocess.run([lightning, "fit", "-c", "configs/lewm.yaml"], capture_output=True, text=True, check=False)
assert answer.returncode == 1, answer
assert "pip install 'jepakit[train]'" in answer.stderr, answer.stderr
assert "Traceback" not in answer.stderr, answer.stderr
if len(sys.argv) > 1:
    import numpy as np

    from jepakit.export.runtime import open_backend
    from jepakit.planning.settings import PlannerConfig

    backend = open_backend(sys.argv[1], engine="onnx")
    planner = PlannerConfig().planner(backend)
    frames = np.zeros((1, 1, 64, 64, 3), np.uint8)
    rngs = [np.random.default_rng(0)]
    plan = planner.plan(planner.observe(frames), planner.encode_goal(frames[:, 0]), horizon=2, rngs=rngs)
    assert plan.actions.shape == (1, 2, 10), plan.actions.shape
    assert np.isfinite(plan.actions).all()
print("wheel: 1 passed, 0 failed")
