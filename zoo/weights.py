"""Saving and loading models: ``config.json`` (plain values) beside ``model.safetensors``. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jepakit
from jepakit.hub import locate
from jepakit.json_files import read_json
from jepakit.zoo.config import parse_config, plain_config
from jepakit.zoo.files import in_single, load_strict
from jepakit.zoo.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor

    from jepakit.zoo.base import WorldModel
    from jepakit.zoo.module import WorldModelModule
    from jepakit.zoo.trainable import DataConfig, Trainable

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRAINING_FILE = "training.json"
OFFICIAL = "official:"
_CONFIG_HASH = "config_sha256"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint's files say: the family's registry name, its config, its tensors."""

    name: str
    config: DataConfig
    tensors: dict[str, Tensor]
    source: Path


def save_pretrained(model: Trainable, directory: str | Path, *, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """Write ``model`` with its statistics into ``directory``, which is made if needed; returns the directory.

    ``tensors`` are those of the model where it holds only a part of them (``jepakit.zoo.ranks.whole_state``). Numbers
    are written in float32, also those of a training in another precision. Both files appear complete or not at all; the
    config comes last.
    """
    from safetensors.torch import save

    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if tensors is None else tensors
    plain = {name: in_single(tensor.detach()).cpu().contiguous() for name, tensor in state.items()}
    weights = save(plain, metadata={"format": "pt", "model": model.name})
    config = {
        "model": model.name,
        "jepakit": jepakit.__version__,
        "config": plain_config(model.config),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    config[_CONFIG_HASH] = _hash_of(config)
    _write(directory / WEIGHTS_FILE, weights)
    _write(directory / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    return directory


def from_pretrained(source: str | Path, *, revision: str | None = None) -> WorldModelModule:
    """Load a saved world model of any family as its Lightning class, in eval mode.

    ``source`` is a folder, a Hub id ``org/name`` (at ``revision``), ``builtin:name`` for weights that came with
    jepakit, or ``official:`` followed by a folder or id for checkpoints in the layout of LeWM's authors.

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
    if isinstance(source, str) and source.startswith(OFFICIAL):
        from jepakit.zoo.lewm.official import read_official

        return read_official(source.removeprefix(OFFICIAL), revision=revision)
    folder = locate(source, (CONFIG_FILE, WEIGHTS_FILE), revision=revision)
    config = read_json(folder / CONFIG_FILE)
    recorded = config.pop(_CONFIG_HASH, None)
    expected = {"model", "jepakit", "config", "sha256"}
    if set(config) | {"sha256"} != expected:  # weights saved by early versions have no hashes
        hint = "; this looks like the LeWM authors' layout: write 'official:…'" if "_target_" in config else ""
        raise ValueError(f"{folder / CONFIG_FILE}: found keys {sorted(config)}, expected {sorted(expected)}{hint}")
    if recorded is not None and recorded != _hash_of(config):
        raise ValueError(
            f"{folder / CONFIG_FILE}: {_CONFIG_HASH}: does not fit the file, which was changed after it was saved; "
            f"download it again, or remove {_CONFIG_HASH} if the change was meant"
        )
    try:
        config_class = lookup(config["model"]).config_class()
        model_config = parse_config(config_class, config["config"], where="config")
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
    return Checkpoint(
        name=config["model"],
        config=model_config,
        tensors=_read_safetensors(folder / WEIGHTS_FILE, config.get("sha256")),
        source=folder / WEIGHTS_FILE,
    )


def _hash_of(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _read_safetensors(file: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read the tensors; a hash, if there is one, finds what was damaged or mixed up on the way."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = file.read_bytes()
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(
            f"{file}: not a complete safetensors file ({error}); found {len(content)} bytes; save or download it again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(
            f"{file}: sha256: found {found}, expected {sha256} ({CONFIG_FILE}): not the file that was saved with it; "
            "download both again"
        )
    return tensors


def _write(file: Path, content: bytes) -> None:
    """Write ``content`` beside ``file``, then move it there in one step."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(
            error.errno, f"{file}: cannot be written ({error.strerror or error}); what was there before is untouched"
        ) from error
