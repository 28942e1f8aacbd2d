"""Reading JSON files that others may have written or that were damaged on the way: our error, or what the file says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def read_json(file: Path, *, remedy: str = "save or download it again") -> dict[str, Any]:
    """Read a JSON object; raises ``ValueError`` naming the file if it is not one."""
    return parse_json(file.read_bytes(), where=str(file), remedy=remedy)


def parse_json(text: str | bytes, *, where: str, remedy: str = "save or download it again") -> dict[str, Any]:
    """Read a JSON object from its text; ``where`` names the source in the ``ValueError`` for anything else."""
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not readable as JSON ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: found {type(values).__name__}, expected a JSON object; {remedy}")
    return values


def check_json(value: object, expected: Any, *, where: str) -> None:  # noqa: ANN401 (a type, or a nest of them)
    """Raise ``ValueError`` naming the field unless ``value`` looks as ``expected``.

    A type means an instance of it (integers count as floats, anything is an ``object``), ``(x, None)`` such or null,
    ``[x]`` a list of such, ``{"*": x}`` a mapping of any names to such. Any other mapping names fields that must be
    there; one with ``?`` at its end may be missing, and what is not named may be anything.
    """
    if isinstance(expected, tuple):
        if value is not None:
            check_json(value, expected[0], where=where)
        return
    kind = expected if isinstance(expected, type) else type(expected)
    if kind is not object and type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{where}: found {value!r}, expected {_NAMES[kind]}; write the file again")
    if isinstance(value, list) and isinstance(expected, list):
        for index, entry in enumerate(value):
            check_json(entry, expected[0], where=f"{where}[{index}]")
    if isinstance(value, dict) and isinstance(expected, dict):
        for name, inner in _fields(value, expected, where).items():
            check_json(value[name], inner, where=f"{where}.{name}")


def _fields(value: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What is to be checked in ``value``, by name."""
    if "*" in expected:
        return dict.fromkeys(value, expected["*"])
    missing = sorted(name for name in expected if not name.endswith("?") and name not in value)
    if missing:
        raise ValueError(f"{where}: found no {', '.join(missing)} among {sorted(value)}; write the file again")
    named = {name.removesuffix("?"): inner for name, inner in expected.items()}
    return {name: inner for name, inner in named.items() if name in value}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
