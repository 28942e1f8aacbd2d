"""One self-contained HTML page about a run: configuration, curves, success table, pictures, videos.

Reads what training and evaluation left in the run's folder: ``config.yaml``, ``metrics.csv``, ``pictures/*.png`` and
``evaluation/`` (``evaluation.json`` and videos). What is not there is left out.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from pathlib import Path
from typing import Any

_MIME = {".png": "image/png", ".webp": "image/webp"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; height: auto; background: white; border-radius: 4px; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: left; white-space: nowrap; }}
.videos {{ display: flex; flex-wrap: wrap; gap: 1rem; }} figure {{ margin: 0; }} figcaption {{ font-size: .85rem; }}
pre {{ overflow-x: auto; padding: 1rem; background: #8882; border-radius: 4px; font-size: .8rem; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the folder ``run`` and return its path; raises ``FileNotFoundError`` without one."""
    if not run.is_dir():
        raise FileNotFoundError(
            f"{run}: no such folder; give the folder of a run (it holds config.yaml or evaluation/)"
        )
    sections = [_evaluation(run / "evaluation"), _curves(run / "metrics.csv"), _pictures(run), _config(run)]
    body = "\n".join(section for section in sections if section)
    if not body:
        raise FileNotFoundError(f"{run}: found neither evaluation/, metrics.csv, pictures/ nor config.yaml there")
    file = run / "report.html"
    file.write_text(_PAGE.format(title=f"Run {html.escape(run.name)}", body=body), encoding="utf-8")
    return file


def _evaluation(folder: Path) -> str:
    file = folder / "evaluation.json"
    if not file.is_file():
        return ""
    result = json.loads(file.read_text())
    tasks = result["tasks"]
    rows = "".join(_row(name, policy) for name, policy in result["policies"].items())
    about = (
        f"{html.escape(result['environment'])}: {tasks['count']} tasks from {tasks['split']} episodes, goals "
        f"{tasks['offset']} steps away, budget {result['budget']}, {tasks['excluded']} solved starts excluded."
    )
    head = "".join(
        f"<th>{name}</th>" for name in ("policy", "success", "95 % interval", "median steps", "plan p50 / p95")
    )
    videos = "".join(_figure(video, video.stem) for video in sorted(folder.glob("*.webp")))
    shown = f'<h3>Some tasks: camera, and the goal beside it</h3><div class="videos">{videos}</div>' if videos else ""
    curve = _image(_success_curve(result), "share of tasks solved by step")
    return f"<h2>Planning</h2><p>{about}</p><table><tr>{head}</tr>{rows}</table>{curve}{shown}"


def _row(name: str, policy: dict[str, Any]) -> str:
    low, high = policy["interval95"]
    latency = policy["latency_ms"]
    cells = (
        html.escape(name),
        f"{policy['rate']:.0%}",
        f"{low:.0%} – {high:.0%}",
        "–" if policy["median_steps"] is None else f"{policy['median_steps']:g}",
        f"{latency['p50']:.0f} / {latency['p95']:.0f} ms" if latency else "–",
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _success_curve(result: dict[str, Any]) -> bytes:
    figure, axis = _figure_canvas()
    for name, policy in result["policies"].items():
        axis.step(range(len(policy["curve"])), policy["curve"], where="post", label=name)
    axis.set(xlabel="environment steps", ylabel="share solved", ylim=(-0.02, 1.02))
    axis.legend()
    return _png(figure)


def _curves(file: Path) -> str:
    """Every logged metric against the training step, training and validation of a term in one panel."""
    if not file.is_file():
        return ""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if "/" in name and value:
                series.setdefault(name, []).append((int(row["step"]), float(value)))
    terms = sorted({name.partition("/")[2] for name in series})
    pictures = []
    for term in terms:
        figure, axis = _figure_canvas()
        for name in sorted(name for name in series if name.partition("/")[2] == term):
            axis.plot(*zip(*series[name], strict=True), label=name, marker="o" if len(series[name]) < 3 else "")
        axis.set(xlabel="step", title=term, yscale="log")
        axis.legend()
        pictures.append(_image(_png(figure), f"curve of {term}"))
    return f"<h2>Training</h2>{''.join(pictures)}" if pictures else ""


def _pictures(run: Path) -> str:
    files = sorted((run / "pictures").glob("*.png"))
    return "<h2>Pictures</h2>" + "".join(_figure(file, file.stem.replace("_", " ")) for file in files) if files else ""


def _config(run: Path) -> str:
    file = run / "config.yaml"
    if not file.is_file():
        return ""
    text = html.escape(file.read_text())
    return f"<h2>Configuration</h2><details><summary>config.yaml</summary><pre>{text}</pre></details>"


def _figure(file: Path, caption: str) -> str:
    picture = _image(file.read_bytes(), caption, _MIME[file.suffix])
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _image(data: bytes, description: str, mime: str = "image/png") -> str:
    return f'<img alt="{html.escape(description)}" src="data:{mime};base64,{base64.b64encode(data).decode()}">'


def _figure_canvas() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:  # noqa: ANN401 (matplotlib has no types)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return buffer.getvalue()
