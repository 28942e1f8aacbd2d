"""``lightning serve-planner``: a bundle plans for another process on this machine. Needs no PyTorch.

The protocol (frames in, actions out) is described in ``jepakit.planning.serving``; by default it runs over standard
input and output.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepakit.cli.engine import add_engine_options, engine_config
from jepakit.export.bundle import Bundle
from jepakit.planning.backend import Backend
from jepakit.planning.control import ControlConfig, ControlLoop
from jepakit.planning.serving import serve, serve_socket


def run(arguments: list[str]) -> int:
    """Serve until the client leaves, or on a socket until interrupted; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments[1:])
    _check_engine(parser, options)
    if options.rate <= 0:
        raise ValueError(f"--rate: found {options.rate}, expected a positive number of actions per second")
    config = ControlConfig(
        period=1 / options.rate,
        stop_action=options.stop_action,
        on_fault=options.on_fault,
        hold_steps=options.hold_steps,
        max_age=options.max_age,
        planning_time=options.planning_time,
    )
    bundle = Bundle.open(options.bundle)
    loop = ControlLoop(bundle.policy(_backend(bundle, options)), config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a service manager sends
    with _log_on_standard_error():
        if options.socket is None:
            serve(loop, sys.stdin.buffer, _print)
        else:
            serve_socket(loop, options.socket, ready=lambda: print(f"listening on {options.socket}", flush=True))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning serve-planner", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `lightning export` wrote")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="Unix socket to listen on [standard input/output]")
    parser.add_argument(
        "--rate", type=float, required=True, metavar="HZ", help="raw actions per second, as in training"
    )
    parser.add_argument(
        "--stop-action",
        type=_numbers,
        required=True,
        metavar="A,B,…",
        help="raw action that makes the robot stand still (write --stop-action=-1,0 where it begins with a minus)",
    )
    parser.add_argument(
        "--on-fault", choices=("stop", "hold"), default="stop", help="stop, or repeat the last action first [stop]"
    )
    parser.add_argument("--hold-steps", type=int, default=3, help="periods that hold lasts [3]")
    parser.add_argument("--max-age", type=float, default=0.2, metavar="S", help="oldest frame acted upon [0.2]")
    parser.add_argument("--planning-time", type=float, metavar="S", help="when the search stops [80 %% of the period]")
    parser.add_argument("--engine", choices=("onnx", "tensorrt"), default="onnx", help="what computes [onnx]")
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="ONNX Runtime's [cpu]")
    parser.add_argument("--threads", type=int, default=1, help="ONNX Runtime's threads [1]")
    parser.add_argument("--engines", type=Path, metavar="DIR", help="folder of TensorRT engines [BUNDLE/engines]")
    add_engine_options(parser)
    return parser


def _check_engine(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Raise ``ValueError`` for options of an engine that was not chosen."""
    own = {
        "onnx": ("provider", "threads"),
        "tensorrt": ("engines", "runtime", "profile", "environments", "workspace"),
    }
    for engine, names in own.items():
        ignored = [f"--{name}" for name in names if getattr(options, name) != parser.get_default(name)]
        if engine != options.engine and ignored:
            raise ValueError(f"{', '.join(ignored)}: found with --engine {options.engine}, expected --engine {engine}")


def _backend(bundle: Bundle, options: argparse.Namespace) -> Backend:
    if options.engine == "onnx":
        from jepakit.export.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(bundle, provider=options.provider, threads=options.threads)
    from jepakit.export.runtime.tensorrt_backend import TensorRTBackend

    return TensorRTBackend(bundle, engine_config(options), engines=options.engines, say=_say)


@contextmanager
def _log_on_standard_error() -> Iterator[None]:
    logger, handler = logging.getLogger("jepakit"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def _print(answer: bytes) -> None:
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # standard output belongs to the protocol


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected numbers like 0,0") from error
