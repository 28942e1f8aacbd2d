"""Configs are frozen dataclasses of plain values; this file turns them into dictionaries and back, strictly."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C")


def at_least(least: int, *, default: int) -> Any:  # noqa: ANN401 (stands for the field's value)
    """A whole-number field of a config whose smallest value is not 1; see ``check_whole_numbers``."""
    return dataclasses.field(default=default, metadata={"least": least})


def check_whole_numbers(config: object) -> None:
    """Raise ``ValueError`` for a whole number of ``config`` below 1, or below what its field's ``at_least`` says."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, least = getattr(config, field.name), field.metadata.get("least", 1)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise ValueError(f"{field.name}: found {value}, expected at least {least}")


def require_multiple(name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ``ValueError`` naming both fields unless ``value`` is a multiple of ``divisor``."""
    if value % divisor:
        raise ValueError(f"{name}: found {value}, expected a multiple of {divisor_name}, {divisor}")


def parse_config(cls: type[C], values: C | Mapping[str, Any], *, where: str) -> C:
    """Build the config dataclass ``cls`` from ``values``; an instance of ``cls`` passes through.

    ``where`` names the source of the values in error messages ("config", a file). Lists become tuples and
    integers floats where the field says so; nothing else is converted.

    Raises ``ValueError`` for unknown keys, values of another type and whatever the dataclass itself refuses.
    """
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: found {type(values).__name__}, expected {cls.__name__} or a mapping of its fields")
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key '{key}' for {cls.__name__}; {hint}")
    converted = {key: _convert(value, hints[key], f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def plain_config(config: object) -> dict[str, Any]:
    """Return the fields of a config dataclass as JSON-ready values (tuples become lists)."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _convert(value: object, hint: object, where: str) -> object:
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        item = args[0]
        if args[-1] is not Ellipsis and len(args) != len(value):
            raise ValueError(f"{where}: found {list(value)}, expected {len(args)} values")
        return tuple(_convert(entry, item, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin in (Union, types.UnionType) and value is None and type(None) in args:
        return None
    if origin is Literal:
        matches = value in args
    elif hint is float and type(value) is int:
        return float(value)
    else:
        matches = isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not matches:
        expected = f"one of {list(args)}" if origin is Literal else getattr(hint, "__name__", str(hint))
        raise ValueError(f"{where}: found {value!r} ({type(value).__name__}), expected {expected}")
    return value
