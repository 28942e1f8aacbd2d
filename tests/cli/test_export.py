"""`lightning export`: settings and held-out data of a configuration, weights of any family."""

import json

import pytest

from jepakit import cli
from jepakit.export import Bundle
from jepakit.zoo import PLDMModel, save_pretrained


@pytest.fixture
def weights(tmp_path):
    model = PLDMModel(
        {
            **{"image_size": 16, "history": 1, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8},
            **{"projector_hidden": 16, "action_hidden": 16, "predictor": "recurrent", "recurrent_hidden": 16},
        }
    )
    return str(save_pretrained(model, tmp_path / "weights"))


def test_a_bundle_carries_the_planner_and_figures_from_held_out_episodes(mini_config, weights, tmp_path, capsys):
    arguments = ["export", *mini_config, "--weights", weights, "--out", str(tmp_path / "bundle"), "--queries", "3"]
    blocks = ["--planner.mpc.horizon", "2", "--planner.mpc.execute_blocks", "1", "--planner.bounded", "false"]
    assert cli.main([*arguments, *blocks, "--licence", "MIT"]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.spec.horizon == 2
    assert bundle.planner_config.cem.samples == 16
    assert bundle.planner_config.mpc.execute_blocks == 1
    assert bundle.manifest["verification"]["fp32"]["planning"]["queries"] == 3
    assert bundle.manifest["licence"] == "MIT"
    printed = capsys.readouterr().out
    assert json.dumps(bundle.manifest["verification"], indent=1) in printed
    assert f"wrote {tmp_path / 'bundle'}" in printed


def test_what_cannot_be_exported_is_said_before_anything_is_traced(mini_config, weights, tmp_path, capsys):
    base = ["export", *mini_config, "--weights", weights, "--out", str(tmp_path / "bundle")]
    for arguments, message in (
        (["--queries", "0", "--precision", "int8"], "queries: found none, expected real planning problems"),
        (["--queries", "0", "--horizon", "1"], "horizon: found 1, expected at least the planner's mpc.horizon, 5"),
        (["--queries", "0", "--opset", "7"], "opset: found 7, expected 18 to 23"),
        (["--data.frame_skip=2"], "frame_skip: found 2 in the data, expected the model's 5"),
    ):
        assert cli.main([*base, *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
