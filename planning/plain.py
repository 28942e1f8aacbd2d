"""Nested config dataclasses from plain values, strictly and without PyTorch."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C")


def parse(cls: type[C], values: object, *, where: str) -> C:
    """Build the config dataclass ``cls`` from a mapping of its fields, sections included.

    Lists become tuples and integers floats where the field says so; nothing else is converted. Raises ``ValueError``
    for unknown keys, values of another type and whatever a dataclass itself refuses; ``where`` names the source.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: found {values!r}, expected a mapping of the fields of {cls.__name__}")
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise ValueError(f"{where}: found unknown keys {unknown}, expected some of {known}")
    fields = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _convert(hint: Any, value: object, where: str) -> object:  # noqa: ANN401 (a type hint has no type of its own)
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value, where=where)
    if origin in (Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return None if value is None else _convert(inner, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is Literal:
        fits, expected = value in args, f"one of {list(args)}"
    elif hint is float and type(value) is int:
        return float(value)
    else:
        fits, expected = isinstance(hint, type) and type(value) is hint, getattr(hint, "__name__", str(hint))
    if not fits:
        raise ValueError(f"{where}: found {value!r} ({type(value).__name__}), expected {expected}")
    return value
