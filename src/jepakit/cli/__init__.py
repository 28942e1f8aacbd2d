"""The command line: ``lightning`` and ``jepakit`` are the same program.

This module stays light, so that ``--help`` answers at once and a missing extra is named instead of a traceback.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jepakit import __version__


@dataclass(frozen=True)
class _Command:
    """Where a subcommand lives (``module:function``), what it says of itself, and the extra it needs."""

    target: str
    summary: str
    extra: str


_COMMANDS = {
    "fit": _Command("jepakit.cli.app:run", "train a world model from a configuration", "train"),
    "validate": _Command("jepakit.cli.app:run", "losses on the validation episodes", "train"),
    "test": _Command("jepakit.cli.app:run", "losses on the test episodes", "train"),
    "predict": _Command("jepakit.cli.app:run", "latents and predictions of the test episodes", "train"),
    "evaluate": _Command("jepakit.cli.app:run", "success rate of planning in the environment", "train"),
    "probe": _Command("jepakit.cli.app:run", "what a trained world model knows", "train"),
    "export": _Command("jepakit.cli.app:run", "ONNX graphs for planning without PyTorch", "train,onnx"),
    "publish": _Command("jepakit.cli.app:run", "a trained model on the Hugging Face Hub", "train"),
    "build-engine": _Command("jepakit.cli.engine:run", "TensorRT engines of an exported model", "tensorrt"),
    "serve-planner": _Command("jepakit.cli.serve:run", "plan for a robot: frames in, actions out", "onnxruntime"),
    "sweep": _Command("jepakit.cli.sweep:run", "fit or evaluate with many settings", "train"),
    "data": _Command("jepakit.cli.data:run", "convert, inspect, preview, check and generate data sets", "data"),
    "report": _Command("jepakit.cli.report:run", "one HTML page about a run", "train"),
    "demo": _Command("jepakit.cli.demo:run", "data, training, planning and a report in ten minutes", "train"),
}
#: Modules that not every use of a command needs, by the extra that brings them.
_EXTRAS = {
    "pymunk": "envs",
    "gymnasium": "envs",
    "mujoco": "mujoco",
    "dm_control": "mujoco",
    "ogbench": "mujoco",
    "ray": "ray",
    "lance": "lance",
    "pyarrow": "data",
    "hdf5plugin": "data",
    "lightning": "train",
    "torch": "train",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "cuda": "tensorrt",
    "wandb": "wandb",
    "trackio": "trackio",
}
_HELP = ("-h", "--help", "help")
_TRACEBACK = "--traceback"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code (0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in _HELP:
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"jepakit {__version__}")
        return 0
    name = arguments[0]
    if name not in _COMMANDS:
        _complain(f"unknown command {name!r}; known commands: {', '.join(_COMMANDS)}")
        return 2
    wants_traceback = _TRACEBACK in arguments
    arguments = [argument for argument in arguments if argument != _TRACEBACK]
    command = _COMMANDS[name]
    try:
        return _load(command)(with_packaged_configs(arguments))
    except SystemExit as stop:  # argument parsers say what is wrong and leave
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes it an exit with code 1
            _complain("interrupted")
            return 130
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except ModuleNotFoundError as error:
        if wants_traceback or (error.name or "").startswith("jepakit"):
            raise
        extra = _EXTRAS.get((error.name or "").partition(".")[0], command.extra)
        _complain(f"'{name}' needs the module {error.name!r}; install it with: pip install 'jepakit[{extra}]'")
        return 1
    except Exception as error:  # the one place where errors meet the user
        if wants_traceback:
            traceback.print_exc()
        else:
            _complain(f"{error or type(error).__name__}\n({type(error).__name__}; {_TRACEBACK} shows where it arose)")
        return 1


def with_packaged_configs(arguments: Sequence[str]) -> list[str]:
    """Point ``-c configs/…`` at the packaged copy where the working directory has no such file."""
    resolved = list(arguments)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=") if argument.startswith("--config=") else ("", "", argument)
        named = bool(equals) or (index > 0 and arguments[index - 1] in ("-c", "--config"))
        if named and value.startswith("configs/") and not Path(value).exists():
            packaged = Path(__file__).resolve().parent.parent / value
            if packaged.is_file():
                resolved[index] = f"{flag}{equals}{packaged}"
    return resolved


def log_into(folder: Path) -> list[str]:
    """Return flags that make ``folder`` itself a run's, without a number behind it."""
    settings = {"save_dir": folder.parent, "name": folder.name, "version": ""}
    return [f"--trainer.logger.init_args.{key}={value}" for key, value in settings.items()]


def _load(command: _Command) -> Callable[[list[str]], int]:
    module, _, function = command.target.partition(":")
    target: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return target


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in _COMMANDS.items()]
    return "\n".join(
        [
            f"jepakit {__version__}: JEPA world models, trained, planned with and measured.",
            "",
            "usage: lightning COMMAND [options]      (jepakit COMMAND is the same program)",
            "",
            *lines,
            "",
            "lightning COMMAND --help lists a command's options; --traceback shows where an error arose.",
            "Start here: lightning demo",
        ]
    )


def _complain(message: str) -> None:
    print(f"lightning: error: {message}", file=sys.stderr)
