"""Every benchmark keeps the common form: ``--quick``, ``--json FILE``, and what the file holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILES = (Path(__file__).parent.parent.parent / "benchmarks").glob("*.py")
SCRIPTS = sorted(path for path in FILES if 'if __name__ == "__main__":' in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_takes_the_common_options(script):
    answer = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "--quick" in answer.stdout
    assert "--json FILE" in answer.stdout


def test_the_result_has_the_common_form(tmp_path):
    script = next(path for path in SCRIPTS if path.stem == "startup")
    file = tmp_path / "out" / "startup.json"
    subprocess.run([sys.executable, script, "--quick", "--json", file], capture_output=True, check=True)
    result = json.loads(file.read_text())
    assert list(result) == ["name", "machine", "rows", "ratios"]
    assert result["name"] == "startup"
    assert result["machine"]["cores"] >= 1
    assert all(row["median_s"] > 0 for row in result["rows"])
    assert all(ratio > 0 for ratio in result["ratios"].values())
