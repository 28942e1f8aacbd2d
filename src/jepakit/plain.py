"""Config dataclasses from plain values, as configuration files, checkpoints and manifests hold them: strictly."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

C = TypeVar("C")
_LARGEST = 2**1023  # within what a float holds


def parse(cls: type[C], values: object, *, where: str) -> C:
    """Build the config dataclass ``cls`` from a mapping of its fields, dataclasses inside it included.

    ``where`` names the source of the values in error messages ("config", a file). Lists become tuples and
    integers floats where the field says so; nothing else is converted.

    Raises ``ValueError`` for unknown keys, values of another type and whatever a dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: found {type(values).__name__}, expected a mapping of the fields of {cls.__name__}")
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


def _convert(value: object, hint: Any, where: str) -> object:  # noqa: ANN401 (a type hint has no type of its own)
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return parse(hint, value, where=where)
    if origin in (Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return None if value is None else _convert(value, inner, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        if args[-1] is not Ellipsis and len(args) != len(value):
            raise ValueError(f"{where}: found {list(value)}, expected {len(args)} values")
        return tuple(_convert(entry, args[0], f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is Literal:
        matches = value in args
    elif hint is float and type(value) is int and abs(value) < _LARGEST:
        return float(value)
    else:
        matches = isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not matches:
        expected = f"one of {list(args)}" if origin is Literal else getattr(hint, "__name__", str(hint))
        raise ValueError(f"{where}: found {value!r} ({type(value).__name__}), expected {expected}")
    return value
