"""Every shipped configuration runs; the overlays say what the presets say."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from jepakit import cli
from jepakit.cli.app import run_application
from jepakit.datamodules.collect import Collection, collect
from jepakit.datamodules.splits import split_episodes
from jepakit.datamodules.windows import WindowSpec
from jepakit.hub import builtin_names
from jepakit.zoo import CJEPAConfig, DINOWMConfig, LeWM, LeWMConfig, PLDMConfig, VJEPAConfig

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "configs"
SEARCHES = ("fast", "gradient", "icem", "mppi", "random_shooting")
RUNNABLE = {
    "lewm": ["lewm.yaml"],
    "lewm nano": ["lewm.yaml", "size/nano.yaml"],
    "lewm nano on Two-Room": ["lewm.yaml", "data/tworoom.yaml", "size/nano.yaml"],
    "lewm nano on Push-T": ["lewm.yaml", "data/pusht.yaml", "size/nano.yaml"],
    "lewm nano on Collisions": ["lewm.yaml", "data/collisions.yaml", "size/nano.yaml"],
    "lewm nano on Gravity": ["lewm.yaml", "data/gravity.yaml", "size/nano.yaml"],
    "lewm nano on Reacher": ["lewm.yaml", "data/reacher.yaml", "size/nano.yaml"],
    "lewm nano on Cube": ["lewm.yaml", "data/cube.yaml", "size/nano.yaml"],
    "lewm nano on recordings": ["lewm.yaml", "size/nano.yaml", "data/own.yaml"],
    "pldm": ["pldm.yaml"],
    "pldm nano on Two-Room": ["pldm.yaml", "size/nano.yaml", "data/tworoom.yaml"],
    "pldm nano on Push-T": ["pldm.yaml", "size/nano.yaml", "data/pusht.yaml"],
    "pldm with the original paper's settings": ["pldm_original.yaml"],
    "dinowm": ["dinowm.yaml"],
    "dinowm nano on Two-Room": ["dinowm.yaml", "data/tworoom.yaml", "size/nano_dinowm.yaml"],
    "dinowm nano on Push-T": ["dinowm.yaml", "size/nano_dinowm.yaml"],
    "cjepa": ["cjepa.yaml"],
    "cjepa nano on Two-Room": ["cjepa.yaml", "data/tworoom.yaml", "size/nano_cjepa.yaml"],
    "cjepa nano on Collisions": ["cjepa.yaml", "data/collisions.yaml", "size/nano_cjepa.yaml"],
    "cjepa nano on Collisions' true states": ["cjepa.yaml", "size/nano_cjepa.yaml", "data/collisions_oracle.yaml"],
    "cjepa nano on Gravity's true states": ["cjepa.yaml", "size/nano_cjepa.yaml", "data/gravity_oracle.yaml"],
    "vjepa": ["vjepa.yaml"],
    "vjepa nano on Two-Room": ["vjepa.yaml", "size/nano_vjepa.yaml", "data/tworoom.yaml"],
    "vjepa nano on Push-T": ["vjepa.yaml", "size/nano_vjepa.yaml", "data/pusht.yaml"],
    "lewm nano with a small search": ["lewm.yaml", "size/nano.yaml", "plan/nano.yaml"],
    "lewm nano with any search": ["lewm.yaml", "size/nano.yaml", *(f"plan/{name}.yaml" for name in SEARCHES)],
    "demo": ["demo.yaml"],
    "fastlewm": ["fastlewm.yaml"],
    "fastlewm nano on Two-Room": ["fastlewm.yaml", "data/tworoom.yaml", "size/nano.yaml"],
    "distance": ["distance.yaml"],
    "macro": ["macro.yaml"],
    "controller": ["controller.yaml"],
    "controller on Two-Room": ["controller.yaml", "data/tworoom.yaml"],
}


def test_every_configuration_is_tried():
    shipped = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    elsewhere = {"cluster/fsdp.yaml"}  # takes two processes: test_cluster.py
    models = (name for name in builtin_names() if not name.endswith("-controller"))
    elsewhere |= {f"plan/builtin/{name}.yaml" for name in models}  # test_builtin.py
    assert shipped == {name for names in RUNNABLE.values() for name in names} | elsewhere


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
    assert cli.main([*tiny_fit(names, tmp_path), *both_phases(names), *near_goals(names), *needed_data(names)]) == 0


@pytest.mark.parametrize("name", ["controller.yaml", "distance.yaml"])
@pytest.mark.parametrize("flags", [["data.goals"], ["data.init_args.goals", "model.init_args.config"]])
def test_how_far_goals_are_can_be_said_once_and_twice(name, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = run_application([*tiny_fit([name], tmp_path), *(f"--{flag}.max_offset=20" for flag in flags)])
    assert app.datamodule.goals.max_offset == app.model.model.config.max_offset == 20


def tiny_fit(names, folder):
    """Arguments that train one step with the given files."""
    files = [argument for name in names for argument in ("-c", str(CONFIGS / name))]
    small = [
        *(f"--data.generate.root={folder}", "--data.generate.episodes=6", "--data.generate.steps=30"),
        *("--data.generate.workers=1", "--data.batch_size=2", "--data.num_workers=0"),
        *("--trainer.fast_dev_run=true", f"--trainer.logger.init_args.save_dir={folder}"),
    ]
    return ["fit", *files, *small, *frozen_weights(names, folder)]


@pytest.mark.parametrize("names", RUNNABLE.values(), ids=RUNNABLE)
def test_training_as_shipped_outlasts_the_encoder(names):
    config = OmegaConf.to_container(OmegaConf.merge(*(OmegaConf.load(CONFIGS / name) for name in names)), resolve=True)
    encoder = config["model"]["init_args"]["config"].get("encoder_steps", 0)
    assert steps_of(config["trainer"], config["data"]["init_args"]) > encoder


def steps_of(trainer, data):
    """Optimiser steps of a training on one GPU with the data that the configuration generates."""
    most = trainer.get("max_steps", -1)
    if trainer.get("max_epochs") is None:
        return most
    episodes = len(split_episodes(data["generate"]["episodes"], val=0.05, test=0.1, seed=0)["train"])
    window = WindowSpec(**{name: data[name] for name in ("history", "predictions", "frame_skip")})
    windows = episodes * (data["generate"]["steps"] - window.steps + 1)
    steps = trainer["max_epochs"] * (windows // data["batch_size"])
    return steps if most == -1 else min(steps, most)


def needed_data(names):
    """Recordings for the configuration that has none of its own."""
    if "data/own.yaml" not in names:
        return []
    collection = Collection(
        env="jepakit.envs.tworoom:TwoRoom",
        policy="jepakit.envs.tworoom:TwoRoomExplorer",
        **{"episodes": 6, "steps": 30, "image_size": 64},
    )
    return [f"--data.data={collect(collection, Path('recordings'), workers=1)}"]


def both_phases(names):
    """One step each for the encoder and the predictor of models that train them one after the other."""
    two = {"cjepa.yaml", "vjepa.yaml"} & set(names)
    return ["--trainer.fast_dev_run=2", "--model.config.encoder_steps=1"] if two else []


def near_goals(names):
    """Goals that lie within the short episodes of these tests."""
    return ["--data.goals.max_offset=29"] if {"controller.yaml", "distance.yaml"} & set(names) else []


def frozen_weights(names, folder):
    """Random weights in place of those that some configurations need: the Hub's, or those of a trained LeWM."""
    if {"controller.yaml", "distance.yaml", "macro.yaml"} & set(names):
        LeWM(LeWMConfig.nano()).save_pretrained(folder / "world")
        return [f"--model.world_model={folder / 'world'}"]
    if "dinowm.yaml" not in names:
        return []
    if "size/nano_dinowm.yaml" in names:
        LeWM(LeWMConfig.nano()).save_pretrained(folder / "encoder")
    else:
        from transformers import Dinov2Config, Dinov2Model

        # facebook/dinov2-small, but for its depth
        sizes = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, num_hidden_layers=1)
        Dinov2Model(sizes).save_pretrained(folder / "encoder")
        shallow = ["--model.config.vit_depth=1", "--model.config.predictor_depth=1"]
        return [f"--model.encoder_weights={folder / 'encoder'}", *shallow]
    return [f"--model.encoder_weights={folder / 'encoder'}"]


@pytest.mark.parametrize(
    ("names", "preset"),
    [
        (["lewm.yaml", "size/nano.yaml"], LeWMConfig.nano()),
        (["demo.yaml"], LeWMConfig.nano()),
        (["pldm.yaml", "size/nano.yaml"], PLDMConfig.nano()),
        (["dinowm.yaml", "size/nano_dinowm.yaml"], DINOWMConfig.nano()),
        (["cjepa.yaml", "size/nano_cjepa.yaml"], CJEPAConfig.nano()),
        (["vjepa.yaml", "size/nano_vjepa.yaml"], VJEPAConfig.nano()),
    ],
)
def test_nano_is_the_preset(names, preset):
    config = {}
    for name in names:
        config.update(yaml.safe_load((CONFIGS / name).read_text())["model"]["init_args"]["config"])
    for key, value in config.items():
        if not str(value).startswith("${"):
            found = getattr(preset, key)
            assert (list(found) if isinstance(found, tuple) else found) == value, key


def test_the_paper_size_is_the_default():
    config = yaml.safe_load((CONFIGS / "lewm.yaml").read_text())["model"]["init_args"]["config"]
    assert config["lambda_"] == LeWMConfig().lambda_ == 0.09
    assert config["action_dim"] == LeWMConfig().action_dim
