"""Controller, learned distance and macro-actions from the command line: trained on a world model, used with it."""

import json
from pathlib import Path

import pytest
import yaml

from jepakit import cli
from jepakit.export import Bundle
from jepakit.export.runtime import open_backend
from jepakit.zoo import load_model
from jepakit.zoo.files import fingerprint

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture(scope="module")
def trained(mini_config, tmp_path_factory):
    """Weights of a tiny world model, and of what was trained on its latents."""
    folder = tmp_path_factory.mktemp("trained")

    def fit(name, *arguments):
        logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={folder}", "--trainer.logger.version="]
        assert cli.main(["fit", *arguments, *logger, f"--trainer.logger.name={name}"]) == 0
        return str(folder / name / "weights")

    world = fit("world", *mini_config)
    generate = yaml.safe_load(Path(mini_config[-1]).read_text())["data"]["init_args"]["generate"]["root"]
    common = [
        *(f"--model.world_model={world}", "--data=jepakit.datamodules.TwoRoom", f"--data.generate.root={generate}"),
        *("--data.generate.episodes=30", "--data.generate.steps=50", "--data.image_size=16", "--data.batch_size=16"),
        *("--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"),
        *(f"--trainer.callbacks.folder={folder / 'features'}",),
    ]
    return {
        "world": world,
        **{
            name: fit(name, "-c", str(CONFIGS / f"{name}.yaml"), *common, *more)
            for name, more in (
                ("controller", ["--model.config.width=16", "--data.goals.max_offset=49"]),
                ("distance", ["--model.config.width=16", "--data.goals.max_offset=49"]),
                ("macro", ["--model.config.width=16"]),
            )
        },
        "features": folder / "features",
    }


def test_latents_are_computed_once_for_all(trained):
    (folder,) = trained["features"].iterdir()
    assert folder.name.startswith("latents-lewm-")


def test_a_controller_is_evaluated_with_its_world_model(mini_config, trained, tmp_path):
    arguments = ["--weights", trained["world"], "--out", str(tmp_path), "--planner.mpc.execute_blocks=1"]
    asked = ["--planner.solver=controller", f"--planner.controller_weights={trained['controller']}"]
    assert cli.main(["evaluate", *mini_config, *arguments, *asked]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    settings = result["policies"]["lewm"]["settings"]
    assert settings["solver"] == {"name": "controller"}
    assert result["settings"]["fingerprint"] == fingerprint(load_model(trained["world"]))
    assert settings["proposals"] == {"offset": 25, "least_offset": 5}
    assert any(outcome["jerk"] for outcome in result["policies"]["random"]["outcomes"])


def test_a_bundle_holds_the_controller_and_judges_by_the_distance(mini_config, trained, tmp_path):
    arguments = ["--weights", trained["world"], "--out", str(tmp_path / "bundle"), "--queries", "0", "--horizon", "1"]
    blocks = ["--planner.mpc.horizon=1", "--planner.mpc.execute_blocks=1", "--planner.proposals=true"]
    more = [f"--planner.{name}_weights={trained[name]}" for name in ("controller", "distance")]
    assert cli.main(["export", *mini_config, *arguments, *blocks, *more]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.spec.proposals == 1
    assert bundle.planner_config.proposals
    policy = bundle.policy(open_backend(bundle))
    assert policy.proposals.offset == 25


def test_far_goals_are_planned_for_on_two_time_scales(mini_config, trained, tmp_path, capsys):
    arguments = ["--weights", trained["world"], "--planner.two_level.offset=30", "--planner.two_level.cem.iterations=2"]
    more = [f"--planner.{name}_weights={trained[name]}" for name in ("macro", "distance")]
    assert cli.main(["evaluate", *mini_config, *arguments, *more, "--out", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "evaluation.json").read_text())["policies"]["lewm"]["settings"]
    assert settings["name"] == "two_level"
    assert settings["reach"] == 25
    assert cli.main(["export", *mini_config, "--weights", trained["world"], "--out", str(tmp_path / "b"), *more]) == 1
    assert "planner.macro_weights: found" in capsys.readouterr().err


def test_a_world_model_is_probed(mini_config, trained, tmp_path, capsys):
    probe = ["probe", *mini_config, "--weights", trained["world"], "--out", str(tmp_path)]
    assert cli.main([*probe, "--trainer.callbacks=[]"]) == 1
    assert "found no probe, expected at least one: --trainer.callbacks+=" in capsys.readouterr().err
    small = [f"--trainer.callbacks.{name}=2" for name in ("tasks", "candidates", "horizon", "windows")]
    assert cli.main([*probe, "--trainer.callbacks+=jepakit.callbacks.FidelityProbe", *small]) == 0
    assert "\ntest episodes kept from training: yes\n" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "fidelity.json").read_text())["measured"]
    assert entry["step"] == json.loads((Path(trained["world"]) / "training.json").read_text())["steps"] > 0
    assert entry["weights"] == fingerprint(load_model(trained["world"]))
    assert entry["values"]["shuffle_gap"] > 0
    assert (tmp_path / "fidelity.png").is_file()


def test_a_dry_run_of_publishing_shows_everything(mini_config, trained, tmp_path, capsys):
    out = tmp_path / "repository"
    arguments = ["--weights", trained["world"], "--repo", "org/mini", "--dry_run", str(out), "--with_bundle=true"]
    small = ["--planner.mpc.horizon=1", "--planner.mpc.execute_blocks=1"]
    assert cli.main(["publish", *mini_config, *arguments, *small]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert {"README.md", "bundle", "config.json", "model.safetensors", "training.json"} <= {
        path.name for path in out.iterdir()
    }
    record = json.loads((out / "training.json").read_text())
    assert record["steps"] == 3
    assert record["command"].startswith("lightning fit -c ")
    assert record["data"]["name"] == "TwoRoom"
    card = (out / "README.md").read_text()
    assert record["data"]["fingerprint"] in card
    assert "Bundle.from_pretrained" in card
    assert Bundle.from_pretrained(out).spec.image_size == 16


def test_weights_of_something_else_are_named(mini_config, trained, tmp_path, capsys):
    arguments = ["--weights", trained["world"], "--out", str(tmp_path)]
    assert cli.main(["evaluate", *mini_config, *arguments, f"--planner.controller_weights={trained['distance']}"]) == 1
    assert "found a distance, expected a controller" in capsys.readouterr().err
    assert cli.main(["evaluate", *mini_config, "--weights", trained["controller"], "--out", str(tmp_path)]) == 1
    assert "found a checkpoint of Controller, expected WorldModelModule" in capsys.readouterr().err
