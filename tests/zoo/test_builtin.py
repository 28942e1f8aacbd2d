"""The weights that ship: they load, are what their cards say, and plan."""

import json

import pytest
import torch

from jepakit.datamodules import TwoRoom
from jepakit.datamodules.base import Generate
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.hub import BUILTIN, builtin_names
from jepakit.planning import PlannerConfig
from jepakit.planning.evaluation import EvaluationConfig, evaluate
from jepakit.zoo import from_pretrained
from jepakit.zoo.files import fingerprint

FAMILIES = {
    "cjepa-tworoom-nano": "CJEPA",
    "dinowm-tworoom-nano": "DINOWM",
    "lewm-pusht-nano": "LeWM",
    "lewm-tworoom-nano": "LeWM",
    "pldm-tworoom-nano": "PLDM",
}


def test_these_ship():
    assert sorted(builtin_names()) == sorted(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_what_was_evaluated(name):
    module = from_pretrained(f"builtin:{name}")
    assert type(module).__name__ == FAMILIES[name]
    assert not module.training
    folder = BUILTIN / name
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["settings"]["fingerprint"] == fingerprint(module.model)
    assert f'from_pretrained("builtin:{name}")' in (folder / "README.md").read_text()
    assert max(file.stat().st_size for file in folder.iterdir()) <= 8e6
    with torch.no_grad():
        latents = module.encode({"pixels": torch.zeros(1, 3, 64, 64, 3, dtype=torch.uint8)})
        imagined = module.rollout(latents, torch.zeros(1, 2, 10), torch.zeros(1, 2, 4, 10))
    assert imagined.shape == (1, 2, 4, *latents.shape[2:])
    assert imagined.isfinite().all()


def test_one_of_them_plans_in_rooms_it_has_not_seen(tmp_path):
    """40 fresh episodes: 98 % of its own test tasks by a dearer search; here at least 6 of 8."""
    data = TwoRoom(
        generate=Generate(root=str(tmp_path), episodes=40, steps=50, seed=9, workers=1), image_size=64, test_share=0.5
    )
    data.prepare_data()
    data.setup("test")
    tasks = tasks_of(data, TaskConfig(count=8, offset=25))
    settings = {"solver": "random_shooting", "random_shooting": {"samples": 32, "iterations": 3, "noise_exponent": 2.0}}
    planner = PlannerConfig.parse({**settings, "bounded": True, "mpc": {"horizon": 5, "execute_blocks": 5}}, where="it")
    policy = planner.policy(TorchBackend(from_pretrained("builtin:lewm-tworoom-nano"), threads=1))
    found = evaluate({"lewm": policy}, environment_factory(data), tasks, EvaluationConfig(latency_repeats=0))
    assert found.policies[0].successes >= 6
