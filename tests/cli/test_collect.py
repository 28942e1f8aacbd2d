"""``lightning data collect | merge``: what a user types."""

from pathlib import Path

import pytest

from jepakit import cli
from jepakit.datamodules.store import EpisodeStore

CONFIGS = Path(__file__).parent.parent.parent / "configs"


@pytest.fixture
def options(tmp_path):
    return [
        *("-c", str(CONFIGS / "lewm.yaml"), "-c", str(CONFIGS / "data" / "tworoom.yaml")),
        *(f"--data.generate.root={tmp_path}", "--data.generate.episodes=30", "--data.generate.steps=5"),
        *("--data.image_size=16", "--data.generate.frames=raw"),
    ]


def written(root):
    (path,) = root.glob("tworoom-16px-*")
    return EpisodeStore(path)


def test_collect_generates_what_the_configuration_says(options, tmp_path, capsys):
    assert cli.main(["data", "collect", *options, "--workers", "1"]) == 0
    store = written(tmp_path)
    assert f"wrote {store.path}" in capsys.readouterr().out
    assert store.lengths.tolist() == [5] * 30
    assert store.settings["env"] == "jepakit.envs.tworoom:TwoRoom"


def test_shares_are_merged(options, tmp_path, capsys):
    assert cli.main(["data", "collect", *options, "--shard", "2/2", "--workers", "1"]) == 0
    assert "share 2/2 is in" in capsys.readouterr().out
    assert cli.main(["data", "merge", *options]) == 1
    assert "1 of 2 shards are missing, the first is shard-00000" in capsys.readouterr().err
    other = [*options, f"--data.generate.root={tmp_path / 'elsewhere'}"]
    assert cli.main(["data", "collect", *other, "--shard", "1/2", "--workers", "1"]) == 0
    assert cli.main(["data", "merge", *options, "--part", str(tmp_path / "elsewhere")]) == 0
    assert len(written(tmp_path).lengths) == 30


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (["--shard", "3/2"], 1, "share: found 3/2"),
        (["--data.generate.epsiodes=3"], 2, "epsiodes"),
        (["--data.data=some.h5"], 1, "expected one that generates its own data"),
        (["--data.class_path=jepakit.datamodules.EpisodeDataModule"], 1, "found nothing"),
    ],
)
def test_wrong_usage_is_one_readable_error(options, extra, code, said, capsys, tmp_path):
    assert cli.main(["data", "collect", *options, *extra]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_configuration_without_data_is_named(tmp_path, capsys):
    empty = tmp_path / "empty.yaml"
    empty.write_text("trainer: {max_epochs: 1}\n")
    assert cli.main(["data", "collect", "-c", str(empty)]) == 1
    assert "empty.yaml: found no 'data'" in capsys.readouterr().err
