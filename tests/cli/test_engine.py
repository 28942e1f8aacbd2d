"""``lightning build-engine`` with the real TensorRT-RTX, which builds without a GPU."""

import importlib.util
from pathlib import Path

import pytest

from jepakit.cli import main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    file = Path(__file__).parent.parent / "examples" / "exact_bundle.py"
    spec = importlib.util.spec_from_file_location("exact_bundle", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_bundle(tmp_path_factory.mktemp("bundles") / "exact").folder


def test_engines_are_built_by_the_command(bundle, tmp_path, capsys):
    command = ["build-engine", str(bundle), "--out", str(tmp_path), "--profile", "1,8,16", "--workspace", "64"]
    assert main([*command, "--runtime", "tensorrt-rtx"]) == 0
    output = capsys.readouterr().out
    assert f"building {tmp_path / 'score_1.engine'}: there is none yet" in output
    assert {path.name for path in tmp_path.glob("*.engine")} == {"encoder.engine", "score_1.engine"}
    assert main([*command, "--profile", "1,2"]) == 2
    assert "found '1,2', expected three whole numbers" in capsys.readouterr().err
    assert main([*command, "--profile", "3,2,1", "--runtime", "tensorrt-rtx"]) == 1
    assert "EngineConfig.candidates: found 3,2,1" in capsys.readouterr().err
    assert main(command) == 1
    assert "'build-engine' needs the module 'tensorrt'; install it with: pip install 'jepakit[tensorrt]'" in (
        capsys.readouterr().err
    )


def test_running_them_needs_a_gpu(bundle, capsys):
    command = ["serve-planner", str(bundle), "--rate", "2", "--stop-action", "0,0"]
    assert main([*command, "--engine", "tensorrt", "--runtime", "tensorrt-rtx"]) == 1
    assert "cudaErrorInsufficientDriver" in capsys.readouterr().err
