"""Reading a checkpoint's files and loading tensors strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises ``ValueError`` naming the file if it is not one."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON ({error}); save or download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: found {type(values).__name__}, expected a JSON object")
    return values


def load_strict(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy ``tensors`` into ``model``; names, shapes and dtypes must match exactly.

    Raises ``ValueError`` listing what differs, before anything is copied.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        found, expected = tensors[name], own[name]
        if found.shape != expected.shape or found.dtype != expected.dtype:
            problems.append(
                f"{name}: found {found.dtype} {tuple(found.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
            )
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{source}: {len(problems)} tensors do not fit the model its config describes: {shown}{more}")
    model.load_state_dict(dict(tensors))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of every saved tensor of a model, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
