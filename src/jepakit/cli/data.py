"""``lightning data``: look at data sets, bring them into a store, or generate them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jepakit.cli.collect import add_collect, run_collect, run_merge

if TYPE_CHECKING:
    from rich.table import Table

    from jepakit.datamodules.doctor import Report
    from jepakit.datamodules.store import EpisodeSource

_KINDS = ("store", "hdf5", "lance", "dinowm", "lerobot")
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def run(arguments: list[str]) -> int:
    """Run one of the subcommands; returns the exit code (doctor: 1 when it found errors)."""
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments[1:])
    generators = {"collect": run_collect, "merge": run_merge}
    if options.command in generators:
        return generators[options.command](options, overrides)
    if overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    commands = {"convert": _convert, "inspect": _inspect, "preview": _preview, "doctor": _doctor}
    return commands[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    path = argparse.ArgumentParser(add_help=False)
    path.add_argument("path", help="path or URL (hf://, s3://, …) of a data set")
    path.add_argument("--kind", choices=_KINDS, help="its format, where the path shows several")

    convert = commands.add_parser("convert", parents=[path], help="write a data set into a store")
    convert.add_argument("destination", type=Path, help="directory of the new store")
    convert.add_argument("--frames", choices=("raw", "png", "jpeg"), default="raw", help="how to store frames [raw]")
    convert.add_argument("--image-size", type=int, help="scale the centre square of every frame to this side")
    convert.add_argument("--skip-bad", action="store_true", help="leave out and count episodes that cannot be used")

    commands.add_parser("inspect", parents=[path], help="format, episodes and columns")

    preview = commands.add_parser("preview", parents=[path], help="contact sheet (PNG) and video (mp4)")
    preview.add_argument("--out", type=Path, default=Path("preview"), help="folder for the two files [preview]")
    preview.add_argument("--camera", default="pixels", help="column of frames [pixels]")
    preview.add_argument("--episodes", type=int, default=8, help="episodes, spread over the data set [8]")
    preview.add_argument("--frames", type=int, default=10, help="frames of each on the sheet [10]")

    doctor = commands.add_parser("doctor", parents=[path], help="what is wrong with a data set (exit code 1: errors)")
    doctor.add_argument("--json", type=Path, help="write the findings and figures to this file too")
    doctor.add_argument("--history", type=int, default=3, help="context frames of a window [3]")
    doctor.add_argument("--predictions", type=int, default=1, help="predicted frames of a window [1]")
    doctor.add_argument("--frame-skip", type=int, default=5, help="rows between two frames [5]")
    doctor.add_argument("--frames", type=int, default=5000, help="frames to look at, 0 for all [5000]")
    add_collect(commands)
    return parser


def _open(options: argparse.Namespace, *, check: bool) -> EpisodeSource:
    from jepakit.datamodules.readers import open_source

    return open_source(options.path, kind=options.kind, check=check)


def _convert(options: argparse.Namespace) -> int:
    from jepakit.datamodules.convert import Conversion, convert
    from jepakit.datamodules.progress import progress_bar

    conversion = Conversion(frames=options.frames, image_size=options.image_size, skip_bad=options.skip_bad)
    source = _open(options, check=False)
    with progress_bar("converting") as report:
        result = convert(source, options.destination, conversion, progress=report)
    print(f"wrote {result.episodes} episodes to {result.path}")
    if result.skipped:
        print(f"left out {len(result.skipped)}:")
        for error in result.skipped:
            print(f"  {error}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from rich.console import Console

    from jepakit.datamodules.readers import detect
    from jepakit.datamodules.readers.location import Location

    source = _open(options, check=False)
    lengths = source.lengths
    table = _table(f"{source.path}", "column", "type", "shape", "frames")
    for name, column in source.columns.items():
        frames = column.codec if len(column.shape) == 3 else ""
        table.add_row(name, column.dtype, "×".join(map(str, column.shape)) or "scalar", frames)
    console = Console()
    console.print(table)
    kind = options.kind or detect(Location.of(options.path))
    steps = f"; {lengths.min()} to {lengths.max()} steps, {lengths.mean():.1f} on average" if len(lengths) else ""
    console.print(f"{kind}; {len(lengths)} episodes, {lengths.sum()} rows{steps}", highlight=False)
    return 0


def _preview(options: argparse.Namespace) -> int:
    from jepakit.datamodules.preview import Preview, write_preview

    preview = Preview(camera=options.camera, episodes=options.episodes, frames=options.frames)
    for written in write_preview(_open(options, check=False), options.out, preview):
        print(f"wrote {written}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from jepakit.datamodules.doctor import Checkup, Report, diagnose
    from jepakit.datamodules.progress import progress_bar

    checkup = Checkup(
        history=options.history,
        predictions=options.predictions,
        frame_skip=options.frame_skip,
        frames=options.frames,
    )
    try:
        source = _open(options, check=False)
    except (OSError, ValueError) as error:  # also a diagnosis
        report = Report(path=options.path)
        report.add("error", "unreadable", str(error))
    else:
        with progress_bar("looking at episodes") as progress:
            report = diagnose(source, checkup, progress=progress)
    console = Console()
    if report.figures:
        console.print(_figures(report))
    for finding in report.findings:
        console.print(f"[{_COLOURS[finding.level]}]{finding.level:<7}[/] {finding.check}: ", end="", highlight=False)
        console.print(finding.message, markup=False, highlight=False, soft_wrap=True)
    counted = ", ".join(f"{level}s: {report.count(level)}" for level in ("error", "warning", "note"))
    console.print(counted, highlight=False)
    if options.json:
        options.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    return 1 if report.count("error") else 0


def _figures(report: Report) -> Table:
    """The report's figures, nested ones flattened to one line each."""
    table = _table(report.path, "figure", "value")
    for name, value in report.figures.items():
        for label, part in _flat(name.replace("_", " "), value):
            table.add_row(label, _text(part))
    return table


def _flat(label: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and not all(isinstance(part, (int, float)) for part in value.values()):
        for name, part in value.items():
            yield from _flat(f"{label}: {name}".replace("_", " "), part)
    else:
        yield label, value


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column)
    return table
