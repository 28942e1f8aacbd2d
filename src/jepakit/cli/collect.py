"""``lightning data collect | merge``: generate the data of a configuration, whole or in shares."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepakit.datamodules.base import EpisodeDataModule


def add_collect(commands: Any) -> None:  # noqa: ANN401 (argparse names the type of its subparsers privately)
    """Add the two subcommands; what they do not know are overrides such as ``--data.generate.episodes=100``."""
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("-c", "--config", action="append", required=True, help="configuration; later ones win")

    collect = commands.add_parser("collect", parents=[config], help="generate the data that a configuration describes")
    collect.add_argument("--shard", metavar="I/N", help="only share I of N, as one job of an array; then merge")
    collect.add_argument("--workers", type=int, help="processes, or tasks at a time on a cluster [all cores]")
    collect.add_argument("--ray", metavar="ADDRESS", help="work on a Ray cluster: auto, local or its address")

    merge = commands.add_parser("merge", parents=[config], help="make a data set of the shares of all jobs")
    merge.add_argument("--part", action="append", default=[], type=Path, help="root of a job with its own file system")


def run_collect(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Generate a data set or a share of it; returns the exit code."""
    from jepakit.datamodules.collect import Share, collect, collect_share
    from jepakit.datamodules.progress import progress_bar

    share = None if options.shard is None else Share.parse(options.shard)
    module = _data_module(options.config, overrides)
    settings, root = module.collection, module.generate.root
    workers = module.generate.workers if options.workers is None else options.workers
    with progress_bar(f"collecting {module.locate().name}") as report:
        if share is None:
            path = collect(settings, root, workers=workers, cluster=options.ray, progress=report)
        else:
            path = collect_share(settings, root, share, workers=workers, cluster=options.ray, progress=report)
    print(f"wrote {path}" if share is None else f"share {options.shard} is in {path}; merge when all shares are there")
    return 0


def run_merge(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Make a data set of its shares; returns the exit code."""
    from jepakit.datamodules.collect import merge

    module = _data_module(options.config, overrides)
    print(f"wrote {merge(module.collection, module.generate.root, parts=options.part)}")
    return 0


def _data_module(files: Sequence[str], overrides: Sequence[str]) -> EpisodeDataModule:
    """Build the data module of a configuration; what the files say of models and trainers is left alone."""
    from jsonargparse import ArgumentParser
    from omegaconf import OmegaConf

    from jepakit.datamodules.base import EpisodeDataModule

    data = OmegaConf.select(OmegaConf.merge(*map(OmegaConf.load, files)), "data")
    if data is None:
        raise ValueError(f"{', '.join(files)}: found no 'data', expected the class_path of a data module there")
    parser = ArgumentParser(prog="lightning data", exit_on_error=True)
    parser.add_subclass_arguments(EpisodeDataModule, "data")
    parsed = parser.parse_args(["--data", json.dumps(OmegaConf.to_container(data, resolve=True)), *overrides])
    module: EpisodeDataModule = parser.instantiate_classes(parsed).data
    if module.env is None or module.data is not None:
        raise ValueError(
            f"{', '.join(files)}: data: found {type(module).__name__} of {module.data or 'no environment'}, expected "
            "one that generates its own data, such as jepakit.datamodules.PushT without data"
        )
    return module
