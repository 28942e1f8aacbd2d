"""The front door: help, missing extras, packaged configurations, errors without tracebacks."""

import subprocess
import sys
from importlib.metadata import metadata

import pytest

from jepakit import cli


def test_help_lists_every_command_without_importing_torch():
    code = "import sys; from jepakit.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in cli._COMMANDS:
        assert f"  {command}" in answer.stdout


def test_nothing_and_nonsense_are_usage_errors(capsys):
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("fit", "torch", "train"),
        ("fit", "pymunk", "envs"),
        ("fit", "safetensors.torch", "train"),  # it takes all of the command's own extra
        ("export", "onnx_ir", "train,onnx"),
        ("serve-planner", "tensorrt", "tensorrt"),
        ("data", "lightning", "train"),
    ],
)
def test_a_missing_module_names_the_extra_that_brings_it(command, module, extra, monkeypatch, capsys):
    def import_without(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli.importlib, "import_module", import_without)
    assert cli.main([command]) == 1
    assert f"pip install 'jepakit[{extra}]'" in capsys.readouterr().err


def test_every_extra_that_is_named_exists():
    named = [
        *cli._EXTRAS.values(),
        *(extra for command in cli._COMMANDS.values() for extra in command.extra.split(",")),
    ]
    assert set(named) <= set(metadata("jepakit").get_all("Provides-Extra"))


def test_packaged_configurations_stand_in_for_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [_, _, found] = cli.with_packaged_configs(["fit", "-c", "configs/lewm.yaml"])
    assert found != "configs/lewm.yaml"
    assert found.endswith("configs/lewm.yaml")
    assert cli.with_packaged_configs(["fit", "--config=configs/lewm.yaml"])[1] == f"--config={found}"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "lewm.yaml").write_text("mine")
    assert cli.with_packaged_configs(["fit", "-c", "configs/lewm.yaml"])[2] == "configs/lewm.yaml"
    assert cli.with_packaged_configs(["fit", "--config", "other.yaml"])[2] == "other.yaml"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.config.latent_dmi=3"], "latent_dmi"),
        (["--data.image_size=many"], "image_size"),
        (["--trainer.max_stpes=3"], "max_stpes"),
        (["-c", "nowhere.yaml"], "nowhere.yaml"),
        (["--model.config.latent_dim=0"], "latent_dim"),
        (["--model=jepakit.zoo.LeVM"], "LeVM"),
    ],
)
def test_wrong_keys_and_files_are_one_readable_error(mini_config, capsys, arguments, said):
    assert cli.main(["fit", *mini_config, *arguments]) != 0
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.config.action_dim=5"], "action_dim"),
        (["--data.data=missing.h5"], "missing.h5"),
        (["--data.frame_skip=40"], "a window needs"),
    ],
)
def test_data_that_do_not_fit_are_one_readable_error(mini_config, tmp_path, capsys, arguments, said):
    to_folder = [f"--trainer.logger.init_args.save_dir={tmp_path}"]
    assert cli.main(["fit", *mini_config, *to_folder, *arguments]) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert "--traceback shows" in printed
    assert not list(tmp_path.rglob("weights"))


def test_traceback_on_request(mini_config, capsys):
    assert cli.main(["fit", *mini_config, "--data.data=missing.h5", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", lambda command: interrupted)
    assert cli.main(["fit"]) == 130
