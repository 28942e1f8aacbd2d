"""``lightning data``: what a user types, what comes out, and the exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from jepakit.cli import main
from jepakit.cli.data import _KINDS
from jepakit.datamodules.readers import READERS, open_source
from jepakit.datamodules.store import Column, EpisodeWriter

FIXTURES = Path(__file__).parent.parent / "fixtures" / "datasets"
SAMPLE = str(FIXTURES / "pusht_sample.h5")


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.h5"
    shutil.copy(SAMPLE, path)
    path.chmod(0o644)
    with h5py.File(path, "r+") as file:
        file["action"][35, 1] = np.nan
        file["pixels"][60:64] = 0
    return path


def test_help_is_fast_because_nothing_heavy_is_imported():
    code = (
        "import sys; from jepakit.cli import main; assert main(['data', '--help']) == 0; "
        "heavy = {'torch', 'lightning', 'h5py', 'lance', 'pyarrow', 'av', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("convert", "inspect", "preview", "doctor"):
        assert f"    {command}" in answer.stdout


def test_inspection_and_doctor_do_not_need_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from jepakit.cli import main; "
        f"sys.exit(main(['data', 'doctor', {SAMPLE!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_the_kinds_are_those_of_the_readers():
    assert set(_KINDS) == set(READERS)


def test_inspect_prints_columns_and_episodes(capsys):
    for path, kind in ((SAMPLE, "hdf5"), (str(FIXTURES / "pusht_sample.lance"), "lance")):
        assert main(["data", "inspect", path]) == 0
        printed = capsys.readouterr().out
        assert f"{kind}; 3 episodes, 98 rows; 27 to 41 steps" in printed
        assert "64×64×3" in printed


def test_convert_then_inspect_the_store(tmp_path, capsys):
    arguments = ["data", "convert", SAMPLE, str(tmp_path / "s"), "--frames", "jpeg", "--image-size", "32"]
    assert main(arguments) == 0
    assert "wrote 3 episodes" in capsys.readouterr().out
    assert open_source(tmp_path / "s").columns["pixels"].shape == (32, 32, 3)
    assert main(arguments) == 1
    assert "a complete store is there already" in capsys.readouterr().err


def test_convert_names_a_bad_episode_and_skips_it_on_request(damaged, tmp_path, capsys):
    assert main(["data", "convert", str(damaged), str(tmp_path / "s")]) == 1
    assert "damaged.h5: episode 1: column 'action'" in capsys.readouterr().err
    assert main(["data", "convert", str(damaged), str(tmp_path / "s"), "--skip-bad"]) == 0
    printed = capsys.readouterr().out
    assert "wrote 2 episodes" in printed
    assert "left out 1:" in printed
    assert "damaged.h5: episode 1:" in printed


def test_doctor_ends_with_1_on_errors_only(damaged, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["data", "doctor", SAMPLE, "--json", str(report)]) == 0
    assert json.loads(report.read_text())["figures"]["windows"] == 41
    assert "errors: 0, warnings: 1, notes: 0" in capsys.readouterr().out
    assert main(["data", "doctor", str(damaged), "--json", str(report)]) == 1
    printed = capsys.readouterr().out
    assert "episode 1: NaN before the last step" in printed
    assert "episode 2: 4 black frames" in printed
    found = [
        (finding["level"], finding["check"], finding["episodes"])
        for finding in json.loads(report.read_text())["findings"]
    ]
    assert ("error", "action", [1]) in found
    assert ("error", "pixels", [2]) in found


def test_doctor_of_what_cannot_be_opened(tmp_path, capsys):
    path = tmp_path / "cut.h5"
    path.write_bytes(Path(SAMPLE).read_bytes()[:5000])
    assert main(["data", "doctor", str(path), "--json", str(tmp_path / "report.json")]) == 1
    assert "cut.h5: not a readable HDF5 file" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["findings"][0]["check"] == "unreadable"


def test_a_conversion_that_was_killed_before_its_first_episode(tmp_path, capsys):
    store, report = tmp_path / "store", tmp_path / "report.json"
    columns = {"pixels": Column(dtype="uint8", shape=(32, 32, 3)), "action": Column(dtype="float32", shape=(2,))}
    EpisodeWriter(store, columns)  # never closed, as by a killed process
    assert main(["data", "inspect", str(store)]) == 0
    assert "store; 0 episodes, 0 rows\n" in capsys.readouterr().out
    assert main(["data", "doctor", str(store), "--json", str(report)]) == 1
    assert "error   length: no episodes\n" in capsys.readouterr().out
    content = json.loads(report.read_text())
    assert [finding["check"] for finding in content["findings"]] == ["integrity", "length"]
    assert content["figures"] == {"integrity": "all hashes match"}


def test_preview_writes_both_pictures(tmp_path, capsys):
    assert main(["data", "preview", SAMPLE, "--out", str(tmp_path), "--episodes", "2"]) == 0
    assert "contact-sheet.png" in capsys.readouterr().out
    assert (tmp_path / "episodes.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "required: COMMAND"),
        (["mend", "x"], 2, "invalid choice"),
        (["inspect", "missing.h5"], 1, "missing.h5: no such data set"),
        (["convert", SAMPLE, "s", "--frames", "gif"], 2, "invalid choice: 'gif'"),
        (["convert", SAMPLE, "s", "--image-size", "0"], 1, "image_size: found 0"),
        (["doctor", SAMPLE, "--frame-skip", "0"], 1, "frame_skip: found 0"),
    ],
)
def test_wrong_usage_is_one_readable_error(arguments, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())
