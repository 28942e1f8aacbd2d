"""``lightning report RUN``: one HTML page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from jepakit.report import write_report


def run(arguments: list[str]) -> int:
    """Write the report of the given folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="lightning report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    print(f"wrote {write_report(parser.parse_args(arguments[1:]).run)}")
    return 0
