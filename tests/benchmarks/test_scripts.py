"""Every benchmark keeps the common form: ``--quick``, ``--json FILE``, and what the file holds."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FILES = (Path(__file__).parent.parent.parent / "benchmarks").rglob("*.py")
SCRIPTS = sorted(path for path in FILES if 'if __name__ == "__main__":' in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_takes_the_common_options(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    answer = capsys.readouterr().out
    assert "--quick" in answer
    assert "--json FILE" in answer


def test_the_result_has_the_common_form(tmp_path):
    script = next(path for path in SCRIPTS if path.stem == "sigreg")
    file = tmp_path / "out" / "sigreg.json"
    subprocess.run([sys.executable, script, "--quick", "--json", file], capture_output=True, check=True)
    result = json.loads(file.read_text())
    assert list(result) == ["name", "machine", "rows", "ratios"]
    assert result["name"] == "sigreg"
    assert result["machine"]["cores"] >= 1
    assert result["rows"]
    assert all(ratio > 0 for ratio in result["ratios"].values())
