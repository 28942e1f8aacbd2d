"""Every shipped configuration runs; the overlays say what the presets say."""

from pathlib import Path

import pytest
import yaml

from jepakit import cli
from jepakit.zoo import LeWMConfig

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "configs"
RUNNABLE = {
    "lewm": ["lewm.yaml"],
    "lewm nano": ["lewm.yaml", "size/nano.yaml"],
    "lewm nano on Two-Room": ["lewm.yaml", "data/tworoom.yaml", "size/nano.yaml"],
    "lewm nano on Push-T": ["lewm.yaml", "data/pusht.yaml", "size/nano.yaml"],
    "lewm nano on Collisions": ["lewm.yaml", "data/collisions.yaml", "size/nano.yaml"],
    "lewm nano on Gravity": ["lewm.yaml", "data/gravity.yaml", "size/nano.yaml"],
    "lewm nano on Reacher": ["lewm.yaml", "data/reacher.yaml", "size/nano.yaml"],
    "lewm nano on Cube": ["lewm.yaml", "data/cube.yaml", "size/nano.yaml"],
    "demo": ["demo.yaml"],
}


def test_every_configuration_is_tried():
    shipped = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    assert shipped == {name for names in RUNNABLE.values() for name in names}


NEED_MUJOCO = {"lewm nano on Reacher", "lewm nano on Cube"}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, id=name, marks=[pytest.mark.mujoco] * (name in NEED_MUJOCO))
        for name, names in RUNNABLE.items()
    ],
)
def test_it_trains(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [argument for name in names for argument in ("-c", str(CONFIGS / name))]
    small = [
        *(f"--data.generate.root={tmp_path}", "--data.generate.episodes=6", "--data.generate.steps=30"),
        *("--data.generate.workers=1", "--data.batch_size=2", "--data.num_workers=0"),
        *("--trainer.fast_dev_run=true", f"--trainer.logger.init_args.save_dir={tmp_path}"),
    ]
    assert cli.main(["fit", *files, *small]) == 0


@pytest.mark.parametrize("names", [["lewm.yaml", "size/nano.yaml"], ["demo.yaml"]])
def test_nano_is_the_preset(names):
    config = {}
    for name in names:
        config.update(yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"]["config"])
    preset = LeWMConfig.nano()
    for key, value in config.items():
        if not str(value).startswith("${"):
            assert getattr(preset, key) == value, key


def test_the_paper_size_is_the_default():
    config = yaml.safe_load((CONFIGS / "lewm.yaml").read_text())["model"]["init_args"]["config"]
    assert config["lambda_"] == LeWMConfig().lambda_ == 0.09
    assert config["action_dim"] == LeWMConfig().action_dim
