"""The report of a run, opened in headless Chromium: wide and narrow, light and dark."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from jepakit import cli
from jepakit.callbacks.decoder import draw_strip, write_video
from jepakit.callbacks.latent_map import draw_map
from jepakit.callbacks.probe import Probe
from jepakit.cli.evaluation import save_evaluation
from jepakit.planning.evaluation import Evaluation, Manifest, Outcome, PolicyResult, Recording, Task
from jepakit.planning.evaluation.latency import Latency
from jepakit.planning.evaluation.provenance import machine
from jepakit.report import write_report
from jepakit.zoo import PLDMConfig, PLDMModel
from jepakit.zoo.files import fingerprint

VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
VIEWER = """<!doctype html><meta charset="utf-8"><body>{frames}<script>
onload = () => {{
  const facts = [...document.querySelectorAll("iframe")].map(({{contentDocument: page, contentWindow: view}}) => ({{
    images: [...page.images].map(image => image.naturalWidth),
    videos: [...page.querySelectorAll("video")].map(video => [video.videoWidth, video.duration, video.readyState > 1]),
    width: page.documentElement.scrollWidth,
    window: view.innerWidth,
    text: view.getComputedStyle(page.querySelector("h1")).color,
    ground: view.getComputedStyle(page.documentElement).backgroundColor,
    requests: view.performance.getEntriesByType("resource").map(entry => entry.name),
  }}));
  document.body.textContent = JSON.stringify(facts);
}};
</script></body>
"""


def look(page, folder):
    """Open ``page`` in every view: what each of them shows, and what the console logged."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.fail("found no Chromium, which opens the report; install it (Debian: apt-get install chromium)")
    frames = "".join(
        f'<iframe style="color-scheme: {scheme}" width="{width}" height="800" srcdoc="{html.escape(page)}"></iframe>'
        for width, scheme in VIEWS
    )
    viewer = folder / "viewer.html"
    viewer.write_text(VIEWER.format(frames=frames), encoding="utf-8")
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr")
    done = subprocess.run(
        [program, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", viewer.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    found = re.search(r"<body>(\[.*\])</body>", done.stdout, flags=re.DOTALL)
    assert found, f"Chromium did not show the page:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    facts = json.loads(html.unescape(found[1]))
    return dict(zip(VIEWS, facts, strict=True)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def brightness(colour):
    """Mean of the channels of an opaque CSS colour."""
    return sum(map(int, re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups())) / 3


class Readout(Probe):
    name = "readout"

    def __init__(self, values):
        super().__init__()
        self.values = values

    def measure(self, model, data, folder):
        for stem in ("readout", "readout_errors"):
            Image.new("RGB", (900, 400), "steelblue").save(folder / f"{stem}.png")
        return self.values


class Surprise(Readout):
    name = "surprise"


@pytest.fixture(scope="module")
def model():
    return PLDMModel(PLDMConfig.nano())


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Everything a run can leave behind, in small; the evaluation is of other weights than the probes'."""
    folder = tmp_path_factory.mktemp("runs") / "a-run-with-a-name-that-is-longer-than-a-telephone-is-wide"
    rng = np.random.default_rng(0)
    for step, better in ((100, 0.0), (200, 0.125), (300, 0.25)):
        grid = {f"{name}/{metric}": 0.5 + better for name in ("agent_x", "agent_y") for metric in ("r2", "mlp_r2")}
        Readout({**grid, "door_y/r2": float("nan"), "rows": 1234.0}).run(model, None, folder / "probes", step=step)
    Surprise({"accuracy": 0.75, "gap <frames>": float("nan")}).run(model, None, folder / "probes", step=300)
    Image.new("RGB", (400, 300), "teal").save(folder / "probes" / "unowned.png")
    save_evaluation(evaluation("0123456789abcdef", rng), folder / "evaluation")
    (folder / "pictures").mkdir()
    names = [f"entry {index}" for index in range(8)]
    titles = (("PC 1", "PC 2"),)
    draw_map((rng.normal(size=(60, 2)),), titles, rng.normal(size=(60, 8)), names, folder / "pictures" / "map.png")
    strip = {row: rng.integers(0, 255, (4, 8, 32, 32, 3), dtype=np.uint8) for row in ("real", "imagined")}
    draw_strip(strip, folder / "pictures" / "decoder.png")
    write_video(strip, folder / "probes" / "readout_film.mp4")
    rows = [f"{step},{1 / (step + 1)},{2 / (step + 1)},{-step},{step}" for step in range(0, 300, 50)]
    heads = "step,train/loss,val/loss,train/reward,probe/readout/rows"
    (folder / "metrics.csv").write_text("\n".join([heads, *rows]))
    (folder / "config.yaml").write_text(f"model: <{'long ' * 60}>\n")
    return folder


def evaluation(weights, rng):
    state = (0.0, 0.0)
    task = Task(id=0, episode=0, start_step=0, goal_step=25, state=state, goal_state=state)
    manifest = Manifest(
        **{"environment": "TwoRoom", "data_fingerprint": "d", "split": "test", "offset": 25, "seed": 0, "excluded": 1},
        tasks=(task,),
    )
    frames = rng.integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)
    outcome = Outcome(task=0, success=True, steps=4, final_distance=0.5)
    policies = tuple(
        PolicyResult(
            name=name,
            outcomes=(outcome,),
            recordings=(Recording(task=0, goal=frames[0], frames=frames),),
            latency=Latency(p50=10.0, p95=20.0, p99=30.0, repeats=3) if name == "pldm" else None,
        )
        for name in ("pldm", "random", "stay", "scripted")
    )
    return Evaluation(
        **{"manifest": manifest, "budget": 50, "seed": 0, "policies": policies, "versions": {}, "machine": machine()},
        **{"settings": {"fingerprint": weights}, "commit": None},
    )


@pytest.fixture(scope="module")
def page(run):
    assert cli.main(["report", str(run)]) == 0
    return (run / "report.html").read_text(encoding="utf-8")


def rows(page):
    """Cells of every row of every table."""
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_it_opens_everywhere_without_an_error(page, tmp_path):
    views, console = look(page, tmp_path)
    assert console == []
    for (width, scheme), view in views.items():
        assert view["window"] == width
        assert view["width"] <= width, f"at {width} px the page scrolls sideways, to {view['width']} px"
        assert len(view["images"]) == page.count("<img") == 15
        assert min(view["images"]) > 0
        assert view["videos"] == [[96 + 4 * (98 + 12), 2.0, True]]  # 8 frames of 4 windows, and their names
        assert view["requests"] == []
        assert (brightness(view["text"]) > 200) == (scheme == "dark")
        assert (brightness(view["ground"]) > 200) == (scheme == "light")
        assert abs(brightness(view["text"]) - brightness(view["ground"])) > 200


def test_the_look_notices_what_is_wrong(tmp_path):
    broken = (
        "<!doctype html><h1>broken</h1><p style='width: 700px'>wide</p><img src='data:image/png;base64,AAAA'>"
        "<img src='http://127.0.0.1:9/x.png'><video src='data:video/mp4;base64,AAAA'></video>"
        "<script>console.error('alas')</script>"
    )
    views, console = look(broken, tmp_path)
    assert len(console) == len(VIEWS)
    assert all("alas" in line for line in console)
    for (width, _), view in views.items():
        assert view["images"] == [0, 0]
        assert view["videos"] == [[0, None, False]]
        assert (view["width"] > width) == (width == 390)
        assert view["requests"] == ["http://127.0.0.1:9/x.png"]
        assert view["text"] == "rgb(0, 0, 0)"


def test_probes_show_their_latest_figures(page, model):
    found = rows(page)
    assert ["quantity", "r2", "mlp_r2"] in found
    assert ["agent_x", "0.75", "0.75"] in found
    assert ["door_y", "undefined", "–"] in found
    assert ["rows", "1234"] in found
    assert ["gap &lt;frames&gt;", "undefined"] in found
    assert page.count(f"After step 300, weights {fingerprint(model)[:12]}.") == 2
    assert [page.count(f'alt="curve of {name}"') for name in ("r2", "mlp_r2", "rows", "accuracy")] == [1, 1, 1, 0]
    assert "curve of readout/rows" not in page  # the logger's copy
    places = ("<h3>readout<", "<figcaption>readout errors<", "<figcaption>readout film<", "<h3>surprise<", ">unowned<")
    order = [page.index(part) for part in places]
    assert order == sorted(order)


def test_probes_of_other_weights_are_told_apart(page, model, tmp_path):
    warning = "Measured on other weights"
    assert page.count(f"{warning} ({fingerprint(model)[:12]}) than the success rates (0123456789ab)") == 2
    Surprise({"accuracy": 0.75}).run(model, None, tmp_path / "probes", step=0)
    assert warning not in write_report(tmp_path).read_text()
    save_evaluation(evaluation(fingerprint(model), np.random.default_rng(0)), tmp_path / "evaluation")
    assert warning not in write_report(tmp_path).read_text()


def test_a_foreign_file_among_the_probes_is_named(tmp_path):
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "notes.json").write_text("[]")
    with pytest.raises(ValueError, match=r"notes.json: found list, expected a JSON object"):
        write_report(tmp_path)


def test_an_empty_folder_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "found neither evaluation/, probes/, metrics.csv" in capsys.readouterr().err
