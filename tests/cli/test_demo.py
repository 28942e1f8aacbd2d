"""The demo end to end, in small: every file it promises, and what a second command makes of its weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jepakit import cli
from jepakit.cli.demo import demo, summarise
from jepakit.datamodules.store import EpisodeStore
from jepakit.zoo import LeWM


@pytest.fixture(scope="session")
def demo_run(mini_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "demo"
    return out, demo(mini_config, out)


def test_the_summary_holds_what_others_rely_on(demo_run):
    out, summary = demo_run
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["tasks"] == 5
    assert set(summary["success"]) == set(summary["interval95"]) == {"lewm", "random", "stay", "scripted"}
    assert summary["success"]["scripted"] == 1.0
    assert summary["success"]["stay"] == 0.0
    assert 0 < summary["plan_latency_ms"]["p50"] <= summary["plan_latency_ms"]["p95"]
    assert set(summary["seconds"]) == {"data", "train", "evaluate", "total"}
    assert sum(summary["seconds"].values()) <= 2 * summary["seconds"]["total"] + 0.5


def test_later_configurations_win_and_latencies_may_be_missing(demo_run, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("jepakit.cli.demo.demo", lambda config, out: asked.append(config) or {})
    assert cli.main(["demo", "-c", "one.yaml", "-c", "two.yaml"]) == 0
    assert cli.main(["demo"]) == 0
    assert asked[0] == ["-c", "one.yaml", "-c", "two.yaml"]
    assert asked[1][1].endswith("configs/demo.yaml")
    evaluation = json.loads((demo_run[0] / "evaluation" / "evaluation.json").read_text())
    for policy in evaluation["policies"].values():
        policy["latency_ms"] = None
    assert summarise(evaluation, {})["plan_latency_ms"] is None


def test_the_report_stands_alone(demo_run):
    out, _ = demo_run
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3  # success curve, curves, latent map
    assert "data:image/webp;base64," in page
    assert "latent map" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_the_weights_are_the_trained_ones(demo_run):
    out, _ = demo_run
    model = LeWM.from_pretrained(out / "weights")
    checkpoint = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, checkpoint[name], rtol=0, atol=0)
    assert model.model.action_std.shape == (10,)
    assert not torch.equal(model.model.action_std, torch.ones(10))  # fitted, saved, loaded


def test_evaluating_again_gives_the_same_outcomes(demo_run, mini_config, tmp_path):
    out, _ = demo_run
    code = cli.main(["evaluate", *mini_config, "--weights", str(out / "weights"), "--out", str(tmp_path / "again")])
    assert code == 0
    results = [
        json.loads((folder / "evaluation.json").read_text()) for folder in (out / "evaluation", tmp_path / "again")
    ]
    assert results[0]["tasks"] == results[1]["tasks"]
    for policy in ("lewm", "random", "stay", "scripted"):
        assert results[0]["policies"][policy]["outcomes"] == results[1]["policies"][policy]["outcomes"]


def test_a_frozen_task_list_can_be_given(demo_run, mini_config, tmp_path):
    out, _ = demo_run
    tasks = str(out / "evaluation" / "tasks.json")
    weights = str(out / "weights")
    base = ["evaluate", *mini_config, "--weights", weights, "--out", str(tmp_path / "again"), "--tasks.list", tasks]
    assert cli.main(base) == 0
    first, second = (
        json.loads((folder / "evaluation.json").read_text())["tasks"]["sha256"]
        for folder in (out / "evaluation", tmp_path / "again")
    )
    assert first == second
    held_out = json.loads((tmp_path / "again" / "evaluation.json").read_text())["settings"]["held_out"]
    assert held_out == "yes"


def test_weights_that_do_not_fit_the_data_are_refused(demo_run, mini_config, tmp_path, capsys):
    out, _ = demo_run
    arguments = ["--weights", str(out / "weights"), "--out", str(tmp_path / "x"), "--data.frame_skip=2"]
    assert cli.main(["evaluate", *mini_config, *arguments]) == 1
    assert "frame_skip: found 2 in the data, expected the model's 5" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_validate_test_and_predict_are_of_a_trained_model(demo_run, mini_config, capsys):
    out, _ = demo_run
    place = [f"--trainer.logger.init_args.save_dir={out.parent}", f"--trainer.logger.init_args.name={out.name}"]
    curves = (out / "metrics.csv").read_bytes()
    for command in ("validate", "test", "predict"):
        assert cli.main([command, *mini_config, *place]) == 1
        assert f"ckpt_path: found no checkpoint for {command}, expected one" in capsys.readouterr().err
        assert cli.main([command, *mini_config, *place, "--ckpt_path", "last"]) == 0
    assert (out / "metrics.csv").read_bytes() == curves  # CSVLogger deletes the file where it finds one
    written = load_file(out / "predict" / "predictions.safetensors")
    assert f"wrote {out / 'predict' / 'predictions.safetensors'}" in capsys.readouterr().out
    windows = len(written["episode"])
    assert {name: tuple(written[name].shape) for name in ("latents", "predictions")} == {
        "latents": (windows, 4, 1, 8),
        "predictions": (windows, 3, 1, 8),
    }


def test_a_demo_of_another_configuration_in_a_folder_here(mini_config, tmp_path, monkeypatch):
    """A name that could be a Hub id, and a logger that would number the run."""
    monkeypatch.chdir(tmp_path)
    numbered = tmp_path / "numbered.yaml"
    numbered.write_text("trainer: {logger: {init_args: {version: null}}}")
    summary = demo([*mini_config, "-c", str(numbered)], Path("mine"))
    assert summary["tasks"] == 5
    assert (tmp_path / "mine" / "report.html").is_file()


def test_callbacks_that_are_always_there_can_be_replaced_or_left_out(mini_config, tmp_path, capsys):
    fit = ["fit", *mini_config, f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.max_steps=1"]
    assert cli.main([*fit, "--trainer.enable_progress_bar=false"]) == 0
    fit.append("--trainer.logger.init_args.name=other")
    other = ["--trainer.callbacks=[]", "--trainer.callbacks+=jepakit.callbacks.RunEstimate"]
    assert cli.main([*fit, *other, "--trainer.callbacks.warn_after_hours=0"]) == 0
    captured = capsys.readouterr().err
    assert captured.count("This run will take about") == 2  # once for each command
    assert cli.main([*fit, "--trainer.enable_checkpointing=false"]) == 1
    assert "trainer.enable_checkpointing: found false, expected true" in capsys.readouterr().err


def test_nan_in_the_data_stops_the_run_by_name(mini_config, tmp_path, monkeypatch, capsys):
    read = EpisodeStore.read

    def read_with_nan(self, column, rows, out=None):
        values = read(self, column, rows, out)
        if column == "action" and len(rows) == 8 * 20:  # a batch, not the statistics
            values[0] = np.nan
        return values

    monkeypatch.setattr(EpisodeStore, "read", read_with_nan)
    assert cli.main(["fit", *mini_config, f"--trainer.logger.init_args.save_dir={tmp_path}"]) == 1
    assert re.search(r"column 'action' of episode \d+: found NaN", capsys.readouterr().err)
    assert not list(tmp_path.rglob("weights"))
