"""The protocol over in-memory streams and a real socket; a robot must always be told something."""

import io
import json
import re
import socket
import stat
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from jepakit.planning import ControlConfig, ControlLoop, MPCConfig
from jepakit.planning.serving import ProtocolError, pack_message, read_message, serve, serve_socket

STOP = [0.25, -0.25]


def make_loop(toy, **spec):
    policy = toy.make_mpc(config=MPCConfig(horizon=2, execute_blocks=1), iterations=4, **spec)
    return ControlLoop(policy, ControlConfig(period=5.0, stop_action=tuple(STOP), max_age=60.0))


def picture(toy, position):
    return toy.PointMass().picture(position)


def start(frame, **fields):
    return {"type": "start", "shape": list(frame.shape), "dtype": "uint8", **fields}, frame.tobytes()


def look(frame, **fields):
    header = {"type": "frame", "shape": list(frame.shape), "dtype": str(frame.dtype), "time": time.monotonic()}
    return header | fields, frame.tobytes()


def talk(loop, *messages):
    """Send all messages, then read all answers."""
    answers = io.BytesIO()
    serve(loop, io.BytesIO(b"".join(pack_message(*message) for message in messages)), answers.write)
    answers.seek(0)
    return [header for header, _ in iter(lambda: read_message(answers), None)]


@contextmanager
def asking(loop):
    """One client that waits for every answer."""
    here, there = socket.socketpair()
    with here, there, here.makefile("rwb") as stream, there.makefile("rb") as requests:
        server = threading.Thread(target=serve, args=(loop, requests, there.sendall))
        server.start()

        def ask(header, payload=b""):
            stream.write(pack_message(header, payload))
            stream.flush()
            return read_message(stream)[0]

        yield ask
        here.shutdown(socket.SHUT_WR)
        server.join()


def test_a_client_is_led_to_its_goal(toy):
    loop, world = make_loop(toy), toy.PointMass()
    goal = np.array([6.0, 5.0])
    with asking(loop) as ask:
        started = ask(*start(picture(toy, goal), seed=3))
        assert started == {"type": "started", "image_size": 4, "action_dim": 2, "proprio": 0, "period": 5.0}
        for _ in range(30):
            answer = ask(*look(world.render()))
            assert answer["fault"] is None
            world.advance(answer["action"])
        assert toy.PointMass.distance(world.state, goal) < 1.0
        summary = ask({"type": "summary"})
    assert summary["steps"] == 30
    assert summary["faults"] == {}
    assert summary["plan"]["repeats"] == 6


FRAME = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "payload", "fault"),
    [
        ({"shape": [4, 4]}, FRAME.tobytes(), "bad_frame"),
        ({"shape": [4, 4, -3]}, FRAME.tobytes(), "bad_frame"),
        ({"shape": [4, 4, 3.0]}, FRAME.tobytes(), "bad_frame"),
        ({"shape": [1 << 40, 1 << 40, 3]}, FRAME.tobytes(), "bad_frame"),
        ({"shape": None}, FRAME.tobytes(), "bad_frame"),
        ({"dtype": "float32"}, FRAME.tobytes(), "bad_frame"),
        ({}, FRAME.tobytes()[:-1], "bad_frame"),
        ({}, b"", "bad_frame"),
        ({"shape": [5, 4, 3]}, bytes(60), "bad_frame"),
        ({"time": None}, FRAME.tobytes(), "stale_frame"),
        ({"time": float("nan")}, FRAME.tobytes(), "stale_frame"),
        ({"time": 0.0}, FRAME.tobytes(), "stale_frame"),
        ({"time": [1]}, FRAME.tobytes(), "stale_frame"),
        ({"time": 10**400}, FRAME.tobytes(), "stale_frame"),
        ({"proprio": None}, FRAME.tobytes(), "bad_proprio"),
        ({"proprio": [1.0]}, FRAME.tobytes(), "bad_proprio"),
        ({"proprio": ["a", "b"]}, FRAME.tobytes(), "bad_proprio"),
        ({"proprio": {"x": 1}}, FRAME.tobytes(), "bad_proprio"),
        ({"proprio": [1.0, float("inf")]}, FRAME.tobytes(), "bad_proprio"),
        ({"proprio": [[1.0], [1.0, 2.0]]}, FRAME.tobytes(), "bad_proprio"),
    ],
)
def test_a_bad_frame_is_answered_with_the_safe_action(toy, changes, payload, fault):
    loop = make_loop(toy, proprio=2)
    good, _ = look(FRAME, proprio=[0.0, 0.0])
    answers = talk(loop, start(FRAME, proprio=[0, 0]), (good | changes, payload), look(FRAME, proprio=[0.0, 0.0]))
    assert [answer["type"] for answer in answers] == ["started", "action", "action"]
    assert answers[1]["fault"] == fault
    assert answers[1]["action"] == STOP
    assert answers[2]["fault"] is None


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"type": "frame"}, r"RuntimeError: ControlLoop.step: called before start\(\)"),
        ({"type": "fly"}, r"type: found 'fly', expected one of start, frame, summary"),
        ({"type": ["frame"]}, r"type: found \['frame'\]"),
        ({}, "type: found None"),
        ({"type": "start"}, "goal: found none"),
        ({"type": "start", "speed": 1}, r"start: found the fields \['speed'\]"),
        ({"type": "start", "seed": -1}, "start: seed: found -1"),
        ({"type": "start", "offset": "x"}, "start: offset: found 'x'"),
    ],
)
def test_what_is_wrong_is_said_and_the_conversation_goes_on(toy, header, message):
    wrong, right = talk(make_loop(toy), (header, b""), start(FRAME))
    assert wrong["type"] == "error"
    assert re.search(message, wrong["message"])
    assert right["type"] == "started"


def test_a_goal_of_another_size_is_refused(toy):
    [wrong] = talk(make_loop(toy), start(np.zeros((5, 4, 3), np.uint8)))
    assert wrong["message"].startswith("ValueError: frames: found uint8 of shape")
    [wrong] = talk(make_loop(toy), ({"type": "start", "shape": [4, 4], "dtype": "uint8"}, FRAME.tobytes()))
    assert "shape, dtype: found none that fit the bytes" in wrong["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0", "the stream ended inside its lengths"),
        (struct.pack(">II", 1 << 17, 0), "found a header of 131072 and a payload of 0 bytes, expected at most 65536"),
        (struct.pack(">II", 2, (1 << 24) + 1) + b"{}", "a payload of 16777217 bytes"),
        (struct.pack(">II", 9, 0) + b"{}", "the stream ended inside it"),
        (struct.pack(">II", 2, 9) + b"{}1", "the stream ended inside it"),
        (struct.pack(">II", 2, 0) + b"{x", "not readable as JSON"),
        (struct.pack(">II", 2, 0) + b"\xff\xff", "not readable as JSON"),
        (struct.pack(">II", 60000, 0) + b"[" * 60000, "not readable as JSON"),
        (struct.pack(">II", 2, 0) + b"[]", "found list, expected a JSON object"),
    ],
)
def test_what_is_no_message_ends_the_conversation(toy, content, message):
    with pytest.raises(ProtocolError, match=message):
        read_message(io.BytesIO(content))
    answers = io.BytesIO()
    serve(make_loop(toy), io.BytesIO(content), answers.write)
    answers.seek(0)
    answer, _ = read_message(answers)
    assert answer["type"] == "error"
    assert read_message(answers) is None


def test_a_message_survives_the_way():
    message = pack_message({"type": "frame", "ü": [1.5]}, b"\0\1\2")
    text = json.dumps({"type": "frame", "ü": [1.5]}).encode()
    assert message == struct.pack(">II", len(text), 3) + text + b"\0\1\2"
    stream = io.BytesIO(message)
    assert read_message(stream) == ({"type": "frame", "ü": [1.5]}, b"\0\1\2")
    assert read_message(stream) is None


def test_a_socket_serves_one_client_after_the_other_and_only_its_user(toy, tmp_path):
    path, ready = tmp_path / "planner", threading.Event()
    threading.Thread(target=serve_socket, args=(make_loop(toy), path), kwargs={"ready": ready.set}, daemon=True).start()
    assert ready.wait(20)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="another process listens here"):
        serve_socket(make_loop(toy), path)

    def converse(*messages):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            with client.makefile("rwb") as stream:
                found = []
                for header, payload in messages:
                    stream.write(pack_message(header, payload))
                    stream.flush()
                    found.append(read_message(stream)[0]["type"])
                return found

    assert converse(start(FRAME), look(FRAME)) == ["started", "action"]
    # The goal of the one before is not the next one's.
    assert converse(look(FRAME), ({"type": "summary"}, b"")) == ["error", "summary"]
    assert converse(start(FRAME), look(FRAME)) == ["started", "action"]


def test_a_socket_left_by_a_killed_process_is_replaced_but_no_file(toy, tmp_path):
    path = tmp_path / "planner"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    class Enough(Exception):
        pass

    def leave():
        raise Enough

    with pytest.raises(Enough):
        serve_socket(make_loop(toy), path, ready=leave)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(ValueError, match="found a file, expected a free name"):
        serve_socket(make_loop(toy), path)
    assert path.read_text() == "mine"
