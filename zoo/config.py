"""Configs are frozen dataclasses of plain values; this file turns them into dictionaries and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from jepakit.plain import parse

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
    """Build the config dataclass ``cls`` as ``jepakit.plain.parse`` does; an instance of ``cls`` passes through."""
    return values if isinstance(values, cls) else parse(cls, values, where=where)


def plain_config(config: object) -> dict[str, Any]:
    """Return the fields of a config dataclass as JSON-ready values (tuples become lists)."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
