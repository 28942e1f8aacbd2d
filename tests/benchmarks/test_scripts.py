"""Every benchmark keeps the common form: ``--quick``, ``--json FILE``, and what the file holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILES = (Path(__file__).parent.parent.parent / "benchmarks").rglob("*.py")
SCRIPTS = sorted(path for path in FILES if 'if __name__ == "__main__":' in path.read_text())


# One process asks all of them, which import the same libraries; not this one, whose modules have the same names.
ASK = """
import contextlib, io, json, runpy, sys
answers = {}
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], script.rpartition("/")[0]
    with contextlib.redirect_stdout(io.StringIO()) as answer, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    answers[script] = answer.getvalue()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers():
    asked = subprocess.run([sys.executable, "-c", ASK, *map(str, SCRIPTS)], capture_output=True, text=True, check=True)
    return json.loads(asked.stdout.splitlines()[-1])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_takes_the_common_options(script, answers):
    assert "--quick" in answers[str(script)]
    assert "--json FILE" in answers[str(script)]


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
