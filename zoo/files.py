"""Loading a checkpoint's tensors strictly, and naming them by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


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
