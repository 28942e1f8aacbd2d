"""Saving and loading models: ``config.json`` (plain values) beside ``model.safetensors``. Nothing is ever unpickled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jepakit
from jepakit.zoo.config import parse_config, plain_config
from jepakit.zoo.files import load_strict, locate, read_json
from jepakit.zoo.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor

    from jepakit.zoo.base import WorldModel
    from jepakit.zoo.module import WorldModelModule
    from jepakit.zoo.trainable import DataConfig, Trainable

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_OFFICIAL = "official:"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint's files say: the family's registry name, its config, its tensors."""

    name: str
    config: DataConfig
    tensors: dict[str, Tensor]
    source: Path


def save_pretrained(model: Trainable, directory: str | Path) -> Path:
    """Write ``model`` with its statistics into ``directory``, which is made if needed; returns the directory.

    Both files appear complete or not at all; the config comes last.
    """
    import json

    from safetensors.torch import save

    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    config = {"model": model.name, "jepakit": jepakit.__version__, "config": plain_config(model.config)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _write(directory / WEIGHTS_FILE, save(tensors, metadata={"format": "pt", "model": model.name}))
    _write(directory / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    return directory


def from_pretrained(source: str | Path, *, revision: str | None = None) -> WorldModelModule:
    """Load a saved world model of any family as its Lightning class, in eval mode.

    ``source`` is a folder, a Hub id ``org/name`` (at ``revision``), or ``official:`` followed by either for
    checkpoints in the layout of LeWM's authors.

    Raises ``FileNotFoundError`` for missing files and ``ValueError`` for files that are damaged, do not fit their
    config, or are of an unknown family.
    """
    from jepakit.zoo.module import WorldModelModule

    return WorldModelModule.from_pretrained(source, revision=revision)


def load_model(source: str | Path, *, revision: str | None = None) -> WorldModel:
    """Load as ``from_pretrained`` does, but the pure torch model, without importing Lightning."""
    from jepakit.zoo.base import WorldModel

    checkpoint = read_checkpoint(source, revision=revision)
    model = build_model(checkpoint)
    if not isinstance(model, WorldModel):
        raise ValueError(f"{checkpoint.source}: found a {checkpoint.name}, expected a world model")
    return model


def build_model(checkpoint: Checkpoint) -> Trainable:
    """Build the model a checkpoint describes and load its tensors strictly; in eval mode."""
    build: Callable[..., Trainable] = lookup(checkpoint.name).model_class()
    model = build(checkpoint.config)
    load_strict(model, checkpoint.tensors, source=checkpoint.source)
    return model.eval()


def read_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Read a checkpoint's files without building a model; see ``from_pretrained``."""
    if isinstance(source, str) and source.startswith(_OFFICIAL):
        from jepakit.zoo.lewm.official import read_official

        return read_official(source.removeprefix(_OFFICIAL), revision=revision)
    folder = locate(source, (CONFIG_FILE, WEIGHTS_FILE), revision=revision)
    config = read_json(folder / CONFIG_FILE)
    expected = {"model", "jepakit", "config"}
    if set(config) != expected:
        hint = "; this looks like the LeWM authors' layout: write 'official:…'" if "_target_" in config else ""
        raise ValueError(f"{folder / CONFIG_FILE}: found keys {sorted(config)}, expected {sorted(expected)}{hint}")
    try:
        config_class = lookup(config["model"]).config_class()
        model_config = parse_config(config_class, config["config"], where="config")
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
    return Checkpoint(
        name=config["model"],
        config=model_config,
        tensors=_read_safetensors(folder / WEIGHTS_FILE),
        source=folder / WEIGHTS_FILE,
    )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file}: not a complete safetensors file ({error}); found {file.stat().st_size} bytes; "
            "save or download it again"
        ) from error


def _write(file: Path, content: bytes) -> None:
    """Write ``content`` beside ``file``, then move it there in one step."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
