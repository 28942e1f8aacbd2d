"""Weights are not judged on episodes that they were trained on; what is not known is said."""

import dataclasses
import json

import pytest

from jepakit.cli.evaluation import refuse_other_split, results_folder
from jepakit.cli.held_out import check_held_out, describe_data
from jepakit.datamodules import TwoRoom
from jepakit.datamodules.base import Generate
from jepakit.datamodules.collect import Collection
from jepakit.datamodules.splits import split_episodes
from jepakit.hub import BUILTIN, builtin_names

GENERATE = Generate(episodes=6, steps=20, workers=1)


def open_data(root, **settings):
    generate = dataclasses.replace(GENERATE, root=str(root), **settings.pop("generate", {}))
    data = TwoRoom(generate=generate, image_size=16, **settings)
    data.prepare_data()
    data.setup("test")
    return data


@pytest.fixture
def weights(tmp_path):
    """A folder with the record of a training on ``GENERATE``."""
    record = json.loads((BUILTIN / "lewm-tworoom-nano" / "training.json").read_text())
    record["data"] = describe_data(open_data(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "training.json").write_text(json.dumps(record))
    return str(tmp_path / "weights")


def test_the_same_data_split_alike(weights, tmp_path):
    assert check_held_out([weights], open_data(tmp_path)) == "yes"


@pytest.mark.parametrize("settings", [{"seed": 1}, {"test_share": 0.3}])
def test_the_same_data_split_otherwise(weights, settings, tmp_path):
    with pytest.raises(ValueError, match=r"training\.json: test episodes were seen in training.* another split"):
        check_held_out([weights], open_data(tmp_path, **settings))


@pytest.mark.parametrize("generate", [{"episodes": 7}, {"frames": "png"}, {"steps": 30}])
def test_episodes_that_begin_alike(weights, generate, tmp_path):
    with pytest.raises(ValueError, match=r"begin with the same ones; set data\.generate to episodes 6, steps 20"):
        check_held_out([weights], open_data(tmp_path, generate=generate))


def test_other_data_and_no_record_are_doubts(weights, tmp_path):
    other = open_data(tmp_path, generate={"seed": 1})
    (tmp_path / "bare").mkdir()
    found = check_held_out([weights, str(tmp_path / "bare")], other)
    assert found.startswith(f"not known ({weights}: trained on other data, TwoRoom ")
    assert f"{tmp_path / 'bare'}: no training.json beside the weights" in found


@pytest.mark.parametrize("name", builtin_names())
def test_records_of_shipped_weights_say_what_their_data_were(name):
    """Push-T's were trained on 4,000 episodes; ``configs/size/nano.yaml`` alone makes 600 that begin alike."""
    record = json.loads((BUILTIN / name / "training.json").read_text())["data"]
    made = Collection(**record["generated"])
    assert made.fingerprint == record["fingerprint"]
    split = split_episodes(made.episodes, val=0.05, test=0.1, seed=0)
    assert record["split"] == {"seed": 0, "val_share": 0.05, "test_share": 0.1}
    assert len(split["train"]) == record["episodes"]


def test_results_of_weights_from_elsewhere_lie_under_runs(tmp_path, monkeypatch):
    assert str(results_folder("builtin:lewm-pusht-nano", "evaluation")) == "runs/builtin-lewm-pusht-nano/evaluation"
    assert str(results_folder("official:org/lewm", "probes")) == "runs/official-org-lewm/probes"
    assert results_folder(str(tmp_path / "weights"), "probes") == tmp_path / "probes"
    monkeypatch.chdir(tmp_path)
    assert results_folder(".", "probes") == tmp_path.parent / "probes"


def test_an_evaluation_on_test_episodes_is_not_replaced_by_one_on_others(tmp_path):
    evaluation = json.loads((BUILTIN / "lewm-pusht-nano" / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    judged = evaluation["settings"]["fingerprint"]
    refuse_other_split(tmp_path, judged, "test")
    refuse_other_split(tmp_path, "another", "val")  # that one is of no use any more
    with pytest.raises(FileExistsError, match=r"evaluation on test episodes, which one on val episodes would replace"):
        refuse_other_split(tmp_path, judged, "val")
