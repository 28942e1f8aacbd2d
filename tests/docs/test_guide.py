"""Every block of the guide runs, in the order of its pages, in one folder, with small models and data."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "hub"))
from server import Hub

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "guide"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = re.findall(r"\]\((\w+\.md)\)", (GUIDE / "README.md").read_text())

# The program, with mini.yaml after the last -c, and otherwise what the guide says.
SHIM = """#!{python}
import sys
from jepakit.cli import main
arguments = sys.argv[1:]
if "-c" in arguments:
    last = len(arguments) - arguments[::-1].index("-c") + 1
    arguments[last:last] = ["-c", {mini!r}]
raise SystemExit(main(arguments))
"""


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """A folder with the programs before everything else on the path, and a Hub that takes uploads."""
    home = tmp_path_factory.mktemp("guide")
    programs = home / "bin"
    programs.mkdir()
    for name in ("lightning", "jepakit"):
        (programs / name).write_text(SHIM.format(python=sys.executable, mini=str(Path(__file__).parent / "mini.yaml")))
        (programs / name).chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    hub = Hub()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"},
        **{"PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
    }
    work = home / "work"
    work.mkdir()

    def run(kind, block):
        program = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, block], cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run.work, run.hub = work, hub
    yield run
    hub.shutdown()
    hub.server_close()


def blocks(page):
    return BLOCK.findall((GUIDE / page).read_text())


def test_the_guide_is_whole():
    assert sorted([*PAGES, "README.md"]) == sorted(path.name for path in GUIDE.iterdir())
    for page in PAGES:
        kinds = {kind for kind, _ in blocks(page)}
        assert kinds <= {"bash", "python", "console"}, page
        assert kinds & {"bash", "python"}, page
        for link in re.findall(r"\]\(([^)#]+)", (GUIDE / page).read_text()):
            assert (GUIDE / link).exists(), (page, link)


def test_every_block_runs(journey):
    printed = {
        page: "".join(journey(kind, block) for kind, block in blocks(page) if kind != "console") for page in PAGES
    }
    assert "model.safetensors" in printed["train.md"]
    assert "torch.Size([1, 3, 1, 64]) torch.Size([1, 8, 5, 1, 64])" in printed["train.md"]
    assert "30 episodes" in printed["data.md"]
    assert (journey.work / "runs" / "mine" / "version_0" / "weights" / "model.safetensors").is_file()
    assert "random" in printed["evaluate.md"]
    evaluated = json.loads((journey.work / "chosen" / "icem" / "evaluation.json").read_text())
    assert evaluated["tasks"]["split"] == "val"
    assert "score_3.onnx" in printed["export.md"]
    assert "## Evaluation" in printed["publish.md"]
    assert len(journey.hub.repositories["org/lewm-mine"].commits) == 2
