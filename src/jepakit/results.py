"""What training, evaluation and probes left beside a run's weights, read back as they wrote it or refused by name.

These files carry no hash: a changed digit in them is not found. The task list and the weights have theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepakit.json_files import check_json, read_json

_POLICY = {
    **{"rate": float, "interval95": [float], "median_steps?": (float, None), "curve?": [float]},
    "latency_ms": ({"p50": float, "p95?": float}, None),
    "settings?": {"solver?": {"name": str}, "horizon?": int, "execute_blocks?": int},
}
_MACHINE = {"system": str, "architecture": str, "cpus": int}
_EVALUATION = {
    "environment": str,
    "tasks": {"sha256": str, "split": str, "offset": int, "count": int, "excluded?": int, "goals?": str},
    "budget": int,
    "policies": {"*": _POLICY},
    "settings": {"fingerprint?": str},
    "machine": _MACHINE,
}
_PROBE = {"measured": [{"step": int, "weights?": str, "values": {"*": (float, None)}}]}
_SPLIT = {"seed": int, "val_share": float, "test_share": float}
_GENERATED = {
    **{"env": str, "policy": str, "episodes": int, "steps": int, "image_size": int},
    **{"seed": int, "frames": str, "revision": int},
}
_TRAINING = {
    **{"command": str, "steps": int},
    "data": {"name": str, "episodes": int, "fingerprint": str, "split?": _SPLIT, "generated?": (_GENERATED, None)},
    **{"machine": _MACHINE, "versions": {"*": str}},
}


def read_evaluation(file: Path) -> dict[str, Any]:
    """Read an ``evaluation.json``; raises ``ValueError`` naming the file and the field that is missing or no such."""
    return _read(file, _EVALUATION)


def read_probe(file: Path) -> list[dict[str, Any]]:
    """Read a probe's measurements, first to last; raises ``ValueError`` as ``read_evaluation`` does."""
    measured: list[dict[str, Any]] = _read(file, _PROBE)["measured"]
    return measured


def read_training(file: Path) -> dict[str, Any]:
    """Read a training's record; raises ``ValueError`` as ``read_evaluation`` does."""
    return _read(file, _TRAINING)


def describe_goals(tasks: dict[str, Any]) -> str:
    """Where the goals of an evaluation's ``tasks`` are."""
    return "drawn by the environment" if tasks.get("goals") == "drawn" else f"{tasks['offset']} steps away"


def _read(file: Path, expected: dict[str, Any]) -> dict[str, Any]:
    values = read_json(file)
    check_json(values, expected, where=str(file))
    return values
