"""Finding checkpoints, on disk or on the Hub, and loading tensors strictly."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(source: str | Path, files: tuple[str, ...], *, revision: str | None = None) -> Path:
    """Return the folder that holds ``files``: a local one, or a Hub repository's snapshot of just these files.

    A ``Path`` is always a folder; of strings, ``hub:org/name`` is always a Hub id. ``org/name`` is a Hub id unless
    a folder of that name exists, which is refused as ambiguous. Anything else is a folder.

    Raises ``FileNotFoundError`` for a missing folder or file and ``ValueError`` for an ambiguous name.
    """
    text = str(source)
    explicit = isinstance(source, str) and text.startswith("hub:")
    text = text.removeprefix("hub:") if explicit else text
    if explicit and not _HUB_ID.fullmatch(text):
        raise ValueError(f"source: found {source!r}, expected 'hub:organisation/name'")
    folder = Path(text).expanduser()
    if explicit or (isinstance(source, str) and _HUB_ID.fullmatch(text)):
        if folder.exists() and not explicit:
            raise ValueError(
                f"source: {text!r} is a folder here and could also be a Hub id; "
                f"write './{text}' for the folder or 'hub:{text}' for the Hub"
            )
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(text, revision=revision, allow_patterns=list(files)))
    elif revision is not None:
        raise ValueError(f"revision: found {revision!r} with the folder {text}, expected it with a Hub id only")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected a folder with {' and '.join(files)}")
    for name in files:
        if not (folder / name).is_file():
            found = sorted(path.name for path in folder.iterdir())[:8]
            raise FileNotFoundError(f"{folder / name}: no such file; found {found or 'an empty folder'}")
    return folder


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
