import dataclasses
import json
from typing import Literal

import pytest

from jepakit.zoo import LeWMConfig, OptimizerConfig
from jepakit.zoo.config import parse_config, plain_config


@pytest.mark.parametrize("config", [LeWMConfig.tiny(), LeWMConfig.nano(), OptimizerConfig(lr=1e-3)])
def test_plain_values_survive_json(config):
    values = json.loads(json.dumps(plain_config(config)))
    assert parse_config(type(config), values, where="config") == config


def test_the_paper_size_is_the_default():
    assert LeWMConfig.tiny() == LeWMConfig()
    assert LeWMConfig().block_width == 10


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent_dimm": 3}, "config: unknown key 'latent_dimm' for LeWMConfig; did you mean 'latent_dim'?"),
        ({"zzz": 3}, "known keys: frame_skip, action_dim, image_size"),
        ({"latent_dim": "64"}, r"config.latent_dim: found '64' \(str\), expected int"),
        ({"latent_dim": True}, "config.latent_dim: found True"),
        ({"latent_dim": 2.5}, "config.latent_dim: found 2.5"),
        ({"dropout": None}, "config.dropout: found None"),
        ({"encoder": "resnet"}, r"config.encoder: found 'resnet' \(str\), expected one of \['vit', 'cnn'\]"),
        ({"cnn_channels": [4, "8"]}, r"config.cnn_channels\[1\]: found '8'"),
        ({"cnn_channels": 4}, "config.cnn_channels: found 4"),
        ({"latent_dim": 0}, "config: latent_dim: found 0, expected at least 1"),
        ({"history": -1}, "history: found -1"),
        ({"seed": -1}, "seed: found -1, expected at least 0"),
        ({"encoder": "cnn", "cnn_channels": []}, r"cnn_channels: found \[\]"),
        ({"image_size": 100}, "image_size: found 100, expected a multiple of patch_size, 14"),
        ({"encoder": "cnn", "image_size": 100}, "image_size: found 100, expected a multiple of"),
        ({"vit_heads": 5}, "vit_width: found 192, expected a multiple of vit_heads, 5"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"lambda_": -0.1}, "lambda_: found -0.1"),
        ({"knots": 1}, "knots: found 1"),
        ([1], "config: found list, expected a mapping of the fields of LeWMConfig"),
    ],
)
def test_refuses_what_does_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        parse_config(LeWMConfig, values, where="config")


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"betas": [0.9]}, {"warmup_fraction": 2.0}, {"weight_decay": -1.0}])
def test_optimizer_refuses_what_does_not_fit(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        parse_config(OptimizerConfig, values, where="optimizer")


def test_integers_become_floats_where_the_field_says_so():
    parsed = parse_config(LeWMConfig, {"dropout": 0}, where="config")
    assert isinstance(parsed.dropout, float)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LeWMConfig().latent_dim = 3


def test_literals_are_compared_by_value():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Choice:
        kind: Literal["a", "b"] = "a"

    assert parse_config(Choice, {"kind": "b"}, where="x").kind == "b"
