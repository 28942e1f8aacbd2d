"""The control loop for another process: frames in, actions out, over a pipe or a socket on the same machine.

A message is two big-endian 32-bit lengths, a JSON object (UTF-8) of the first length and raw bytes of the second.
Every request gets one answer, in order:

======= ============================================================ ===============================================
request fields, and bytes                                            answer
======= ============================================================ ===============================================
start   ``shape`` [h, w, 3], ``dtype`` "uint8", the goal's picture;  ``started`` with what the model expects
        optional ``proprio``, ``offset``, ``seed``
frame   ``shape``, ``dtype``, ``time`` (CLOCK_MONOTONIC, seconds),   ``action`` with ``action``, ``fault``, ``detail``:
        the picture; ``proprio`` where the model takes it            always an action, the safe one if need be
summary –                                                            ``summary`` with counts and percentiles
======= ============================================================ ===============================================

``type`` names each of them. What is wrong is answered with ``error`` and a ``message``; one that is too large, or no
message at all, also ends the connection. A robot must stop by itself when no answer comes within its period.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from jepakit.planning.control import ControlLoop, Sight

MOST_HEADER = 1 << 16
MOST_PAYLOAD = 1 << 24

_LENGTHS = struct.Struct(">II")
_LOG = logging.getLogger("jepakit.serving")


class ProtocolError(ValueError):
    """What came is not a message, so that nothing after it can be read either."""


def pack_message(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """Return one message as bytes."""
    text = json.dumps(header).encode()
    return _LENGTHS.pack(len(text), len(payload)) + text + payload


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read one message; ``None`` where the stream ends. Raises ``ProtocolError``."""
    lengths = stream.read(_LENGTHS.size)
    if not lengths:
        return None
    if len(lengths) < _LENGTHS.size:
        raise ProtocolError("message: the stream ended inside its lengths")
    header_bytes, payload_bytes = _LENGTHS.unpack(lengths)
    if header_bytes > MOST_HEADER or payload_bytes > MOST_PAYLOAD:
        raise ProtocolError(
            f"message: found a header of {header_bytes} and a payload of {payload_bytes} bytes, expected at most "
            f"{MOST_HEADER} and {MOST_PAYLOAD}"
        )
    text, payload = stream.read(header_bytes), stream.read(payload_bytes)
    if len(text) < header_bytes or len(payload) < payload_bytes:
        raise ProtocolError("message: the stream ended inside it")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"header: not readable as JSON ({error})") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"header: found {type(header).__name__}, expected a JSON object")
    return header, payload


def serve(loop: ControlLoop, requests: BinaryIO, send: Callable[[bytes], object]) -> None:
    """Answer one client's requests until it leaves; what is no message ends the conversation. Its goal ends with it."""
    try:
        _converse(loop, requests, send)
    finally:
        loop.finish()


def _converse(loop: ControlLoop, requests: BinaryIO, send: Callable[[bytes], object]) -> None:
    kinds = {"start": _start, "frame": _frame, "summary": _summary}
    while True:
        try:
            message = read_message(requests)
        except ProtocolError as error:
            _LOG.warning("%s", error)
            send(pack_message({"type": "error", "message": str(error)}))
            return
        if message is None:
            return
        header, payload = message
        kind = header.get("type")
        try:
            if not isinstance(kind, str) or kind not in kinds:
                raise ValueError(f"type: found {kind!r}, expected one of {', '.join(kinds)}")
            answer = kinds[kind](loop, header, payload)
        except Exception as error:  # the client is told, and may go on
            answer = {"type": "error", "message": f"{type(error).__name__}: {error}"}
        send(pack_message(answer))


def serve_socket(loop: ControlLoop, path: Path, *, ready: Callable[[], object] = lambda: None) -> None:
    """Serve one client after the other on a Unix socket that only this user may open; until interrupted."""
    with _listening(path) as listener:
        ready()
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as requests:
                try:
                    serve(loop, requests, connection.sendall)
                except (BrokenPipeError, ConnectionResetError):
                    _LOG.warning("the client left before its answer")
            _LOG.info("client left: %s", loop.summary())


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(os.fspath(path)) == 0:
                    raise ValueError(f"{path}: another process listens here; stop it, or choose another socket")
            path.unlink()  # left over from a process that was killed
        elif path.exists():
            raise ValueError(f"{path}: found a file, expected a free name for a socket")
        mask = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(mask)
        listener.listen(1)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _start(loop: ControlLoop, header: dict[str, Any], payload: bytes) -> dict[str, Any]:
    goal = _picture(header, payload) if payload else None
    if payload and goal is None:
        raise ValueError("shape, dtype: found none that fit the bytes, expected [h, w, 3] and 'uint8'")
    known = {"type", "shape", "dtype", "proprio", "offset", "seed"}
    if unknown := sorted(set(header) - known):
        raise ValueError(f"start: found the fields {unknown}, expected only {sorted(known)}")
    offset, seed = header.get("offset"), header.get("seed", 0)
    for name, value in (("offset", offset), ("seed", seed)):
        if not (value is None or (type(value) is int and value >= 0)):
            raise ValueError(f"start: {name}: found {value!r}, expected a whole number")
    loop.start(goal, proprio=_numbers(header.get("proprio")), offset=offset, seed=seed)
    spec = loop.policy.planner.backend.spec
    return {
        "type": "started",
        "image_size": spec.image_size,
        "action_dim": spec.action_dim,
        "proprio": spec.proprio,
        "period": loop.config.period,
    }


def _frame(loop: ControlLoop, header: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """Step, whatever came: a picture that cannot be one becomes an empty one, which the loop refuses as such."""
    picture = _picture(header, payload)
    sight = Sight(
        frame=np.empty(0, np.uint8) if picture is None else picture,
        taken_at=_seconds(header.get("time")),
        proprio=_numbers(header.get("proprio")),
    )
    command = loop.step(sight)
    return {"type": "action", "action": command.action.tolist(), "fault": command.fault, "detail": command.detail}


def _summary(loop: ControlLoop, header: dict[str, Any], payload: bytes) -> dict[str, Any]:
    return {"type": "summary", **asdict(loop.summary())}


def _picture(header: dict[str, Any], payload: bytes) -> NDArray[np.uint8] | None:
    shape = header.get("shape")
    if header.get("dtype") != "uint8" or not isinstance(shape, list) or len(shape) != 3:
        return None
    if not all(type(length) is int and length > 0 for length in shape) or math.prod(shape) != len(payload):
        return None
    return np.frombuffer(payload, np.uint8).reshape(shape)


def _seconds(value: object) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan


def _numbers(value: object) -> NDArray[np.float32] | None:
    try:
        return None if value is None else np.array(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        return np.full(1, np.nan, np.float32)  # something came, but not numbers: the loop says so
