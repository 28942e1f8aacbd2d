"""``lightning build-engine``: TensorRT engines of a bundle, on the machine that will run them. Needs no PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path

from jepakit.export.bundle import Bundle
from jepakit.export.runtime.tensorrt_library import EngineConfig, Range
from jepakit.export.tensorrt import build_engines

_DEFAULT = EngineConfig()


def run(arguments: list[str]) -> int:
    """Build what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(prog="lightning build-engine", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `lightning export` wrote")
    parser.add_argument("--out", type=Path, help="folder for the engines [BUNDLE/engines]")
    add_engine_options(parser)
    options = parser.parse_args(arguments[1:])
    files = build_engines(Bundle.open(options.bundle), engine_config(options), out=options.out)
    for file in files.values():
        print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    return 0


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`engine_config` reads."""
    group = parser.add_argument_group("engines")
    group.add_argument(
        "--runtime", choices=("tensorrt", "tensorrt-rtx"), default=_DEFAULT.runtime, help="[%(default)s]"
    )
    group.add_argument(
        "--profile",
        type=_range,
        default=_DEFAULT.candidates,
        metavar="MIN,OPT,MAX",
        help=f"numbers of candidates per call: smallest, usual, largest [{_text(_DEFAULT.candidates)}]",
    )
    group.add_argument(
        "--environments",
        type=_range,
        default=_DEFAULT.environments,
        metavar="MIN,OPT,MAX",
        help=f"the same for environments; a robot is one [{_text(_DEFAULT.environments)}]",
    )
    group.add_argument(
        "--workspace",
        type=int,
        default=_DEFAULT.workspace_mib,
        metavar="MIB",
        help="scratch memory the builder may plan with [%(default)s]",
    )


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """Read the options of :func:`add_engine_options`."""
    return EngineConfig(
        runtime=options.runtime,
        candidates=options.profile,
        environments=options.environments,
        workspace_mib=options.workspace,
    )


def _range(text: str) -> Range:
    try:
        least, usual, most = (int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected three whole numbers like 1,300,1024") from error
    return least, usual, most


def _text(numbers: Range) -> str:
    return ",".join(map(str, numbers))
