"""The README's table of shipped weights: made of what lies beside them, and not stale."""

import json
import sys
from pathlib import Path

import pytest

from jepakit.zoo import LeWMModel, save_pretrained, table
from jepakit.zoo.card import planner_title

README = Path(__file__).parent.parent.parent / "README.md"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "builtin" / "lewm-tiny"
    save_pretrained(LeWMModel({"image_size": 16, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8}), folder)
    machine = {"system": "Linux", "architecture": "x86_64", "cpus": 2}
    data = {"name": "TwoRoom", "episodes": 510, "fingerprint": "f"}
    training = {"command": "lightning fit", "steps": 900, "data": data, "machine": machine, "versions": {}}
    (folder / "training.json").write_text(json.dumps(training))
    solver = {"name": "cem", "samples": 32, "iterations": 4}
    settings = {"solver": solver, "horizon": 5, "execute_blocks": 1, "proposals": {"offset": 25}}
    policies = {
        "lewm": {"rate": 0.94, "interval95": [0.84, 0.979], "latency_ms": {"p50": 81.234}, "settings": settings},
        "random": {"rate": 0.06, "interval95": [0.02, 0.16], "latency_ms": None},
    }
    evaluation = {
        "environment": "TwoRoom",
        "tasks": {"sha256": "t", "split": "test", "count": 50, "offset": 25},
        "budget": 50,
        "policies": policies,
        "settings": {},
        "machine": machine,
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    monkeypatch.setattr("jepakit.hub.BUILTIN", folder.parent)
    monkeypatch.setattr(table, "BUILTIN", folder.parent)
    return folder


def test_what_was_not_evaluated_has_no_row(shipped):
    (shipped.parent / "lewm-tiny-controller").mkdir()
    assert "controller` |" not in table.zoo_table()


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({}, "–"),
        (
            {"solver": {"name": "controller"}, "execute_blocks": 5, "proposals": {"offset": 9}},
            "controller, every 5 blocks",
        ),
    ],
)
def test_planners_have_short_titles(settings, title):
    assert planner_title(settings) == title


def test_the_readme_is_fresh(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["table", str(README), "--check"])
    assert table.main() == 0


def test_a_row_says_what_was_measured(shipped, tmp_path, monkeypatch, capsys):
    file = tmp_path / "page.md"
    file.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["table", str(file), "--check"])
    assert table.main() == 1
    assert "run `make zoo-table`" in capsys.readouterr().out
    assert "old" in file.read_text()
    monkeypatch.setattr(sys, "argv", ["table", str(file)])
    assert table.main() == 0
    text = file.read_text()
    assert "| `builtin:lewm-tiny` |" in text
    assert "TwoRoom, 510 episodes | 900 | cem 32×4 with a controller's proposals, every block | 81.2 | 94.0% |" in text
    assert "| 94.0% | 84.0% – 97.9% | 6.0% | 50, 25 steps away |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    monkeypatch.setattr(sys, "argv", ["table", str(file), "--check"])
    assert table.main() == 0


@pytest.mark.parametrize("text", ["", table.BEGIN, f"{table.END}\n{table.BEGIN}", 2 * f"{table.BEGIN}\n{table.END}\n"])
def test_a_page_without_a_place_for_it_is_refused(shipped, text):
    with pytest.raises(ValueError, match="found no place for the table"):
        table.with_table(text)


def test_a_damaged_record_is_refused_by_name(shipped):
    (shipped / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation\.json.*environment"):
        table.zoo_table()
