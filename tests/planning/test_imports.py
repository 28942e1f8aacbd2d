"""The planner runs where neither PyTorch nor a simulator is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

import jepakit.planning
import jepakit.planning.evaluation

CODE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lightning", "gymnasium", "pymunk", "rich", "scipy"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])

import jepakit.planning
assert "numpy" not in sys.modules, "names are to be imported when first used"

import point_mass as toy
from jepakit.planning import StayPolicy
from jepakit.planning.evaluation import evaluate

policies = {"mpc": toy.make_mpc(), "stay": StayPolicy(2)}
print(evaluate(policies, toy.PointMass, toy.make_manifest()).markdown())
assert not {"torch", "lightning", "jepakit.zoo", "jepakit.envs"} & set(sys.modules)
"""


def test_planning_and_evaluating_need_numpy_only(toy):
    folder = Path(toy.__file__).parent
    done = subprocess.run([sys.executable, "-c", CODE, folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "| mpc | 100.0% |" in done.stdout


@pytest.mark.parametrize("module", [jepakit.planning, jepakit.planning.evaluation])
def test_every_public_name_exists(module):
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing
