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


def compare(folder, *arguments):
    script = next(path for path in SCRIPTS if path.stem == "compare")
    where = ["--records", folder / "records", "--out", folder / "nano.md"]
    command = [sys.executable, script, "--only-table", "--environments", "tworoom", *where, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_page_is_made_of_records_of_the_same_budget_and_keeps_what_people_wrote(tmp_path):
    rate = {"successes": 3, "tasks": 4, "rate": 0.75}
    record = {"windows": 256, "tasks": 4, "policies": {"lewm": rate}, "cpu_seconds": {"fit": 60.0, "evaluate": 6.0}}
    (tmp_path / "records" / "tworoom").mkdir(parents=True)
    (tmp_path / "records" / "tworoom" / "lewm-0.json").write_text(json.dumps({**record, "origin": "A machine."}))
    for _ in range(2):
        assert compare(tmp_path, "--windows", "256", "--tasks", "4").returncode == 0
        page = (tmp_path / "nano.md").read_text()
        assert "A machine." in page
        assert "| LeWM | 75 % | 30 – 95 % | 75 | 1.0 min | 0.1 min |" in page
        (tmp_path / "nano.md").write_text(page.replace("75 %", "old") + "\nBy hand.\n")
    assert page.endswith("\nBy hand.\n")
    refused = compare(tmp_path, "--windows", "512", "--tasks", "4")
    assert refused.returncode == 1
    assert "lewm-0.json: windows: found 256, expected 512; give another folder, --records" in refused.stderr
