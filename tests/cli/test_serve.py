"""The real program, in a process of its own, where neither PyTorch nor a simulator can be imported."""

import contextlib
import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jepakit.cli import main
from jepakit.envs.tworoom import TwoRoom
from jepakit.planning.serving import pack_message, read_message

CODE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lightning", "gymnasium", "rich", "PIL", "onnx"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from jepakit.cli import main
raise SystemExit(main(sys.argv[1:]))
"""
GOAL = np.array([60.0, 160.0])


@pytest.fixture(scope="module")
def exact():
    file = Path(__file__).parent.parent / "examples" / "exact_bundle.py"
    spec = importlib.util.spec_from_file_location("exact_bundle", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(exact, tmp_path_factory):
    return exact.write_bundle(tmp_path_factory.mktemp("bundles") / "exact").folder


@contextlib.contextmanager
def launch(bundle, *options):
    """Start a server that can be interrupted, even where a script in the background has the tests ignore that."""
    command = [sys.executable, "-c", CODE, "serve-planner", bundle, "--rate", "2", "--stop-action", "0,0", *options]
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()  # or leaving would wait for it
            raise


def send(world, kind, requests, answers, **fields):
    picture = world.render()
    header = {"type": kind, "shape": list(picture.shape), "dtype": "uint8", **fields}
    requests.write(pack_message(header, picture.tobytes()))
    requests.flush()
    answer, _ = read_message(answers)
    return answer


def drive(exact, requests, answers):
    """Lead a robot to its goal through the protocol; returns how many steps it took."""
    world = TwoRoom(image_size=exact.SIDE)
    world.reset(options={"state": GOAL})
    started = send(world, "start", requests, answers)
    assert (started["type"], started["image_size"], started["period"]) == ("started", exact.SIDE, 0.5)
    world.reset(options={"state": [60.0, 100.0]})
    for step in range(40):
        if world.success(world.state, GOAL):
            return step
        answer = send(world, "frame", requests, answers, time=time.monotonic())
        assert answer["fault"] is None, answer
        world.advance(np.array(answer["action"]))
    raise AssertionError(f"still at {world.state}")


def test_it_leads_a_robot_over_standard_input_and_output(exact, bundle):
    with launch(bundle) as process:
        assert 5 < drive(exact, process.stdin, process.stdout) < 30
        world = TwoRoom(image_size=exact.SIDE)
        late = send(world, "frame", process.stdin, process.stdout, time=time.monotonic() - 1)
        assert (late["fault"], late["action"]) == ("stale_frame", [0.0, 0.0])
        process.stdin.write(pack_message({"type": "summary"}))
        process.stdin.flush()
        summary, _ = read_message(process.stdout)
        assert summary["faults"] == {"stale_frame": 1}
        assert summary["plan"]["p50"] > 0
        process.stdin.close()
        assert process.wait(20) == 0
        assert b"stale_frame" in process.stderr.read()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_a_socket_until_it_is_stopped(exact, bundle, tmp_path, end):
    path = tmp_path / "planner"
    with launch(bundle, "--socket", path) as process:
        assert process.stdout.readline() == f"listening on {path}\n".encode()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(os.fspath(path))
            with client.makefile("rwb") as stream:
                drive(exact, stream, stream)
        process.send_signal(end)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130, said.decode()
        assert not path.exists()
        assert b"interrupted" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], "--rate: found 0.0"),
        (["--stop-action", "0"], "stop_action: found (0.0,), expected 2 numbers"),
        (["--stop-action", "0,3"], "stop_action: found (0.0, 3.0)"),
        (["--planning-time", "9"], "planning_time: found 9.0"),
        (
            ["--profile", "1,2,3", "--engines", "x"],
            "--engines, --profile: found with --engine onnx, expected --engine tensorrt",
        ),
        (["--engine", "tensorrt", "--threads", "2"], "--threads: found with --engine tensorrt, expected --engine onnx"),
        (["--provider", "cuda"], "provider: 'cuda' is not part of this ONNX Runtime"),
    ],
)
def test_what_cannot_work_is_said_at_once(bundle, options, message, capsys):
    assert main(["serve-planner", str(bundle), "--rate", "2", "--stop-action", "0,0", *options]) == 1
    assert message in capsys.readouterr().err


def test_a_bundle_without_planner_settings_is_refused(exact, tmp_path, capsys):
    bundle = exact.write_bundle(tmp_path / "bare", planner=None).folder
    assert main(["serve-planner", str(bundle), "--rate", "2", "--stop-action", "0,0"]) == 1
    assert "planner: found no settings" in capsys.readouterr().err


def test_what_moves_the_robot_must_be_said(bundle, capsys):
    assert main(["serve-planner", str(bundle)]) == 2
    assert "the following arguments are required: --rate, --stop-action" in capsys.readouterr().err
    assert main(["serve-planner", str(bundle), "--rate", "2", "--stop-action", "x"]) == 2
    assert "found 'x', expected numbers like 0,0" in capsys.readouterr().err
