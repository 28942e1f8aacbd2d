"""One self-contained HTML page about a run: success table, videos, probes, curves, pictures, configuration.

Reads what training and evaluation left in the run's folder: ``config.yaml``, ``metrics.csv``, ``pictures/*.png``,
``probes/`` (figures, pictures, videos) and ``evaluation/`` (``evaluation.json`` and videos). What is not there is left
out. The page is light or dark as the reader's system is. Tables, and pictures much wider than high, scroll in boxes.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jepakit.results import describe_goals, read_evaluation, read_probe

_MIME = {".png": "image/png", ".webp": "image/webp", ".mp4": "video/mp4"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,"><style>
:root {{ color-scheme: light dark; background: Canvas; color: CanvasText; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1, h2, h3, p, figcaption {{ overflow-wrap: anywhere; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #8886; }}
img, video {{ display: block; max-width: 100%; height: auto; border-radius: 4px; }}
figure {{ margin: 0 0 1rem; }} figcaption {{ font-size: .85rem; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--cell)), 1fr)); gap: 1rem; }}
.charts {{ --cell: 24rem; }} .videos {{ --cell: min(12rem, 45%); }}
.scroll {{ overflow-x: auto; margin: 1rem 0; }}
.scroll img {{ max-width: none; max-height: 20rem; width: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }}
th:first-child {{ position: sticky; left: 0; background: Canvas; text-align: left; }}
td {{ min-width: 3rem; }}
.warning {{ padding: .5rem 1rem; border-left: 4px solid #d80; background: #d802; }}
pre {{ overflow-x: auto; padding: 1rem; background: #8882; border-radius: 4px; font-size: .8rem; }}
@media (prefers-color-scheme: dark) {{ img.chart {{ filter: invert(.92) hue-rotate(180deg); }} }}
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
    evaluation = run / "evaluation" / "evaluation.json"
    result = read_evaluation(evaluation) if evaluation.is_file() else {}
    sections = [
        _evaluation(result, evaluation.parent) if result else "",
        _probes(run / "probes", result.get("settings", {}).get("fingerprint")),
        _curves(run / "metrics.csv"),
        _pictures(run),
        _config(run),
    ]
    body = "\n".join(section for section in sections if section)
    if not body:
        raise FileNotFoundError(
            f"{run}: found neither evaluation/, probes/, metrics.csv, pictures/ nor config.yaml there"
        )
    file = run / "report.html"
    file.write_text(_PAGE.format(title=f"Run {html.escape(run.name)}", body=body), encoding="utf-8")
    return file


def _evaluation(result: Mapping[str, Any], folder: Path) -> str:
    tasks = result["tasks"]
    about = (
        f"{result['environment']}: {tasks['count']} tasks from {tasks['split']} episodes, goals "
        f"{describe_goals(tasks)}, budget {result['budget']}, {tasks['excluded']} solved starts excluded."
    )
    head = ("policy", "success", "95 % interval", "median steps", "plan p50 / p95")
    table = _table(head, [_row(name, policy) for name, policy in result["policies"].items()])
    videos = "".join(_figure(video, video.stem) for video in sorted(folder.glob("*.webp")))
    shown = (
        f'<h3>Some tasks: camera, and the goal beside it</h3><div class="grid videos">{videos}</div>' if videos else ""
    )
    curve = _image(_success_curve(result), "share of tasks solved by step", chart=True)
    return f"<h2>Planning</h2><p>{html.escape(about)}</p>{table}{curve}{shown}"


def _row(name: str, policy: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = policy["interval95"]
    latency = policy["latency_ms"]
    return (
        name,
        f"{policy['rate']:.0%}",
        f"{low:.0%} – {high:.0%}",
        "–" if policy["median_steps"] is None else f"{policy['median_steps']:g}",
        f"{latency['p50']:.0f} / {latency['p95']:.0f} ms" if latency else "–",
    )


def _success_curve(result: Mapping[str, Any]) -> bytes:
    figure, axis = _figure_canvas()
    for name, policy in result["policies"].items():
        axis.step(range(len(policy["curve"])), policy["curve"], where="post", label=name)
    axis.set(xlabel="environment steps", ylabel="share solved", ylim=(-0.02, 1.02))
    axis.legend()
    return _png(figure)


def _probes(folder: Path, evaluated: str | None) -> str:
    """Every probe's latest figures, their course and its pictures; ``evaluated`` is the fingerprint of the weights."""
    measured = {file.stem: read_probe(file) for file in sorted(folder.glob("*.json"))}
    pictures: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob("*.png"), *folder.glob("*.mp4")]):
        owners = [name for name in measured if file.stem == name or file.stem.startswith(f"{name}_")]
        pictures.setdefault(max(owners, key=len, default=""), []).append(file)
    parts = []
    for name, entries in measured.items():
        parts.append(f"<h3>{html.escape(name)}</h3>")
        parts += [_found(entries[-1], evaluated), _course(entries)] if entries else ["<p>Nothing measured.</p>"]
        parts += [_figure(file, _title(file)) for file in pictures.get(name, [])]
    parts += [_figure(file, _title(file)) for file in pictures.get("", [])]
    return f"<h2>Probes</h2>{''.join(parts)}" if parts else ""


def _found(entry: Mapping[str, Any], evaluated: str | None) -> str:
    """Tables of one measurement: quantities × metrics for names like ``agent_x/r2``, a list for the others."""
    values, weights = entry["values"], entry.get("weights")
    about = f"<p>After step {entry['step']}, weights {html.escape(weights[:12]) if weights else 'not recorded'}.</p>"
    if weights and evaluated and weights != evaluated:
        about += (
            f'<p class="warning">Measured on other weights ({html.escape(weights[:12])}) than the success rates '
            f"({html.escape(evaluated[:12])}).</p>"
        )
    pairs = [name.rpartition("/") for name in values if "/" in name]
    metrics = list(dict.fromkeys(metric for _, _, metric in pairs))
    rows = [
        (quantity, *(_number(values, f"{quantity}/{metric}") for metric in metrics))
        for quantity in dict.fromkeys(quantity for quantity, _, _ in pairs)
    ]
    plain = [(name, _number(values, name)) for name in values if "/" not in name]
    grid = _table(("quantity", *metrics), rows) if rows else ""
    return about + grid + (_table(("quantity", "value"), plain) if plain else "")


def _number(values: Mapping[str, float | None], name: str) -> str:
    if name not in values:
        return "–"
    value = values[name]
    return "undefined" if value is None else f"{value:.4g}"


def _course(entries: Sequence[Mapping[str, Any]]) -> str:
    """Figures against the training step: a panel per metric with a line per quantity, one each for the others."""
    if len(entries) < 2:
        return ""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for entry in entries:
        for name, value in entry["values"].items():
            quantity, _, metric = name.rpartition("/")
            line = panels.setdefault(metric, {}).setdefault(quantity or metric, [])
            line.append((entry["step"], math.nan if value is None else value))
    return f'<div class="grid charts">{"".join(_chart(title, lines) for title, lines in panels.items())}</div>'


def _curves(file: Path) -> str:
    """Every logged metric against the training step, training and validation of a term in one panel."""
    if not file.is_file():
        return ""
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if "/" in name and value and not name.startswith("probe/"):
                line = panels.setdefault(name.partition("/")[2], {}).setdefault(name, [])
                line.append((int(row["step"]), float(value)))
    charts = "".join(_chart(term, dict(sorted(panels[term].items())), log=True) for term in sorted(panels))
    return f'<h2>Training</h2><div class="grid charts">{charts}</div>' if charts else ""


def _chart(title: str, lines: Mapping[str, Sequence[tuple[int, float]]], *, log: bool = False) -> str:
    """One panel, logarithmic if ``log`` and every value is positive."""
    figure, axis = _figure_canvas()
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 3 else "")
    positive = all(value > 0 for points in lines.values() for _, value in points)
    axis.set(xlabel="step", title=title, yscale="log" if log and positive else "linear")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if len(lines) > 4:
        figure.set_figheight(3 + 0.2 * math.ceil(len(lines) / 2))
        figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    elif list(lines) != [title]:
        axis.legend(fontsize="small")
    return _image(_png(figure), f"curve of {title}", chart=True)


def _pictures(run: Path) -> str:
    figures = "".join(_figure(file, _title(file)) for file in sorted((run / "pictures").glob("*.png")))
    return f"<h2>Pictures</h2>{figures}" if figures else ""


def _config(run: Path) -> str:
    file = run / "config.yaml"
    if not file.is_file():
        return ""
    text = html.escape(file.read_text())
    return f"<h2>Configuration</h2><details><summary>config.yaml</summary><pre>{text}</pre></details>"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in a box of its own; the first cell of every row names it."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = (
        f"<th>{html.escape(first)}</th>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        for first, *rest in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _title(file: Path) -> str:
    return file.stem.replace("_", " ")


def _figure(file: Path, caption: str) -> str:
    data = file.read_bytes()
    if file.suffix == ".mp4":
        return f"<figure>{_video(data, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"
    picture = _image(data, caption, _MIME[file.suffix])
    if file.suffix == ".png" and _is_wide(data):
        picture = f'<div class="scroll">{picture}</div>'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _is_wide(png: bytes) -> bool:
    """Whether a PNG is more than three times as wide as high, so that shrinking it to the page would hide it."""
    width, height = struct.unpack(">II", png[16:24])
    return bool(width > 3 * height)


def _image(data: bytes, description: str, mime: str = "image/png", *, chart: bool = False) -> str:
    """An image within the page; a ``chart`` is drawn on white and inverted where the page is dark."""
    kind = ' class="chart"' if chart else ""
    return f'<img{kind} alt="{html.escape(description)}" src="data:{mime};base64,{base64.b64encode(data).decode()}">'


def _video(data: bytes, description: str) -> str:
    """A video within the page, played without end."""
    source = f"data:{_MIME['.mp4']};base64,{base64.b64encode(data).decode()}"
    shown = "controls autoplay loop muted playsinline"
    return f'<video {shown} aria-label="{html.escape(description)}" src="{source}"></video>'


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
