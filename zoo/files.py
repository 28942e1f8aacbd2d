"""Loading a checkpoint's tensors strictly, and naming them by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def load_strict(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy ``tensors`` into ``model``; names, shapes and dtypes must match exactly.

    One number may come without a dimension, as earlier versions saved controllers. Raises ``ValueError`` listing what
    differs, before anything is copied.
    """
    own = model.state_dict()
    single = {
        name: value.reshape(1)
        for name, value in tensors.items()
        if name in own and own[name].shape == (1,) and value.ndim == 0
    }
    tensors = {**tensors, **single}
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
    model.load_state_dict(tensors)


def in_single(value: Tensor) -> Tensor:
    """Return a tensor as it is saved: floating-point numbers in float32."""
    return value.float() if value.is_floating_point() else value


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of every tensor of a model as it is saved, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, given in sorted(model.state_dict().items()):
        value = in_single(given.detach())
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
