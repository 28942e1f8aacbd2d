"""A bundle: a world model outside PyTorch, as a folder of ONNX graphs and all that a planner must know about it.

Needs NumPy only. ``Bundle.open`` believes nothing: every file is compared with its hash in the manifest, and the
manifest with its own. That finds damage and mix-ups; it does not prove who made the bundle.

Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon
in blocks, A action-block width, P proprio width, Q quantities read off the latents, h and w pixels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from jepakit.hub import BUNDLE_FOLDER, resolve
from jepakit.json_files import parse_json, read_json
from jepakit.planning.backend import PlannerSpec
from jepakit.planning.settings import PlannerConfig

if TYPE_CHECKING:
    from jepakit.planning.backend import Backend
    from jepakit.planning.mpc import MPCPolicy

SCHEMA = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
CARD = "MODEL_CARD.md"
CONTROLLER = "controller"
ENGINES = "engines"
Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OPSETS = range(18, 24)

_LARGEST = float(np.finfo(np.float32).max)
_BOUNDS = {"action_low": -np.inf, "action_high": np.inf}
_KEYS = (
    *("schema", "jepakit", "model", "opset", "precision", "spec", "graphs", "planner", "files", "verification"),
    *("licence", "sha256"),
)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ENGINE_FILE = re.compile(r".+\.(engine|json|cache|unfinished)")


@dataclass(frozen=True)
class TensorType:
    """A graph's input or output: NumPy's name of its dtype and its shape, with letters for what may vary."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """What goes into an ONNX graph and what comes out, by name and in order."""

    inputs: dict[str, TensorType]
    outputs: dict[str, TensorType]


def graphs_of(spec: PlannerSpec) -> dict[str, Graph]:
    """Return the graphs that a bundle of a model with this ``spec`` consists of.

    ``encoder`` takes one frame; models that follow objects have ``encoder_1`` … ``encoder_H`` for as many frames.
    ``score_1`` … ``score_H`` take that many frames of history, ``controller`` is there if the model has one. Everything
    is float32 at the door, whatever the precision inside.
    """
    side, tokens, width, block = spec.image_size, spec.tokens, spec.width, spec.block_width
    histories = range(1, spec.history + 1)

    def floats(*shape: int | str) -> TensorType:
        return TensorType("float32", shape)

    graphs = {}
    for frames in histories if spec.whole_history else (1,):
        inputs = {"pixels": TensorType("uint8", ("B", frames, side, side, 3))}
        if spec.proprio:
            inputs["proprio"] = floats("B", frames, spec.proprio)
        name = encoder_name(spec, frames)
        graphs[name] = Graph(inputs, {"latents": floats("B", frames, tokens, width)})
    assert spec.horizon is not None
    for frames in histories:
        inputs = {"history": floats("B", frames, tokens, width)}
        if frames > 1:
            inputs["past_actions"] = floats("B", frames - 1, block)
        inputs["candidates"] = floats("B", "S", spec.horizon, block)
        inputs["goal"] = floats("B", tokens, width)
        outputs = {"distance": floats("B", "S", spec.horizon)}
        if spec.readout:
            outputs["readout"] = floats("B", "S", spec.horizon, len(spec.readout))
        graphs[score_name(frames)] = Graph(inputs, outputs)
    if spec.proposals:
        inputs = {"latents": floats("B", tokens, width), "goal": floats("B", tokens, width), "offset": floats("B")}
        plans = floats("B", spec.proposals, spec.proposed_blocks, block)
        graphs[CONTROLLER] = Graph(inputs, {"plans": plans, "weights": floats("B", spec.proposals)})
    return graphs


def encoder_name(spec: PlannerSpec, frames: int) -> str:
    """Return the graph that encodes ``frames`` frames in one call."""
    return f"encoder_{frames}" if spec.whole_history else "encoder"


def score_name(frames: int) -> str:
    """Return the graph that scores candidates after ``frames`` frames of history."""
    return f"score_{frames}"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its ``folder``, the ``spec`` for the planner, its ``graphs``, and the whole ``manifest``."""

    folder: Path
    spec: PlannerSpec
    graphs: dict[str, Graph]
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Bundle:
        """Read and check a bundle; ``verify=False`` skips the hashes of the files, not the other checks.

        Raises ``FileNotFoundError`` for a missing folder or file, and ``ValueError`` naming file and field for what is
        damaged, of another schema, or does not fit together.
        """
        folder = Path(folder).expanduser()
        file = folder / MANIFEST
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; expected a folder that `lightning export` wrote")
        manifest = _read_manifest(file)
        try:
            spec = read_spec(manifest["spec"])
            graphs = _read_graphs(manifest["graphs"], spec)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        needed = {WEIGHTS, CARD, *(f"{name}.onnx" for name in graphs)}
        _check_files(folder, manifest["files"], needed, verify=verify)
        return cls(folder=folder, spec=spec, graphs=graphs, manifest=manifest)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Bundle:
        """Open a published bundle: of a Hub repository, the files of its folder ``bundle`` alone are fetched.

        Engines are not: they are native code that nobody verified, and are built where they run.

        ``source`` is also a folder, that of a bundle or one that holds it as ``bundle``. Raises what ``open`` and
        ``jepakit.hub.resolve`` raise.
        """
        names = (MANIFEST, WEIGHTS, CARD, "*.onnx")
        folder = resolve(source, [f"{BUNDLE_FOLDER}/{name}" for name in names], revision=revision)
        return cls.open(folder if (folder / MANIFEST).is_file() else folder / BUNDLE_FOLDER)

    def path(self, graph: str) -> Path:
        """Return the ONNX file of a graph."""
        if graph not in self.graphs:
            raise ValueError(f"{self.folder}: graph {graph!r} not found; this bundle has {', '.join(self.graphs)}")
        return self.folder / f"{graph}.onnx"

    @property
    def planner_config(self) -> PlannerConfig | None:
        """Return the planner settings that travel with the model, if any do."""
        plain = self.manifest["planner"]
        return None if plain is None else PlannerConfig.parse(plain, where=f"{self.folder / MANIFEST}: planner")

    def policy(self, backend: Backend) -> MPCPolicy:
        """Build the policy of the settings that travel with the model; ``ValueError`` if none do."""
        config = self.planner_config
        if config is None:
            raise ValueError(
                f"{self.folder / MANIFEST}: planner: found no settings, expected those the model was evaluated with; "
                "export it with a configuration that has a section 'planner', or use PlannerConfig(...).policy(backend)"
            )
        return config.policy(backend)

    @property
    def precision(self) -> Precision:
        """Return the precision of the matrix products."""
        precision: Precision = self.manifest["precision"]
        return precision

    def hash_of(self, file: str) -> str:
        """Return the SHA-256 of one of the bundle's files, in hexadecimal digits."""
        return str(self.manifest["files"][file]["sha256"])


def write_manifest(folder: Path, values: Mapping[str, Any], spec: PlannerSpec) -> None:
    """Write ``manifest.json`` for the files of ``folder``; ``values`` are the fields that do not follow from these."""
    files = {
        path.name: {"sha256": _hash(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    derived = {"spec": plain_spec(spec), "graphs": _plain_graphs(graphs_of(spec)), "files": files}
    complete = {"schema": SCHEMA, **values, **derived}
    ordered = {key: complete.pop(key) for key in _KEYS if key != "sha256"}
    assert not complete, sorted(complete)
    (folder / MANIFEST).write_text(_render(ordered), encoding="utf-8")


def is_bundle_alone(folder: Path) -> bool:
    """Tell whether ``folder`` is a bundle, damaged or not, that holds nothing but its files and its engines.

    So it can be deleted for a new one: everything in it can be exported and built again.
    """
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    files = manifest.get("files")
    if manifest.get("schema") != SCHEMA or not isinstance(files, dict):
        return False
    exported = {MANIFEST, *files}
    return all(
        _holds_engines_alone(path) if path.name == ENGINES else path.name in exported and path.is_file()
        for path in folder.iterdir()
    )


def _holds_engines_alone(folder: Path) -> bool:
    return folder.is_dir() and all(path.is_file() and _ENGINE_FILE.fullmatch(path.name) for path in folder.iterdir())


def plain_spec(spec: PlannerSpec) -> dict[str, Any]:
    """Return ``spec`` as JSON-ready values; infinite bounds become null."""
    plain: dict[str, Any] = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, np.ndarray):
            value = [float(number) if np.isfinite(number) else None for number in value]
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def read_spec(plain: object) -> PlannerSpec:
    """Rebuild what ``plain_spec`` returned; raises ``ValueError`` for anything else."""
    known = [field.name for field in fields(PlannerSpec)]
    if not isinstance(plain, dict) or sorted(plain) != sorted(known):
        found = sorted(plain) if isinstance(plain, dict) else plain
        raise ValueError(f"spec: found {found}, expected exactly the keys {sorted(known)}")
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if name.startswith("action_") and name != "action_dim":
            values[name] = _numbers(name, value)
        elif name == "readout":
            values[name] = tuple(_checked(name, value, _is_names, "a list of names"))
        elif name == "whole_history":
            values[name] = _checked(name, value, lambda given: isinstance(given, bool), "true or false")
        else:
            values[name] = _checked(name, value, _is_whole, "a whole number")
    return PlannerSpec(**values)


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _checked(name: str, value: Any, fits: Callable[[object], bool], expected: str) -> Any:  # noqa: ANN401
    if not fits(value):
        raise ValueError(f"spec.{name}: found {value!r}, expected {expected}; export the bundle again")
    return value


def _numbers(name: str, value: object) -> np.ndarray[Any, np.dtype[np.float32]]:
    missing = _BOUNDS.get(name)
    numbers = isinstance(value, list) and all(
        (type(number) in (int, float) and abs(number) <= _LARGEST) or (number is None and missing is not None)
        for number in value
    )
    if not numbers:
        raise ValueError(f"spec.{name}: found {value!r}, expected a list of numbers; export the bundle again")
    assert isinstance(value, list)
    return np.array([missing if number is None else number for number in value], np.float32)


def _plain_graphs(graphs: Mapping[str, Graph]) -> dict[str, Any]:
    def plain(tensors: Mapping[str, TensorType]) -> dict[str, Any]:
        return {name: {"dtype": tensor.dtype, "shape": list(tensor.shape)} for name, tensor in tensors.items()}

    return {
        name: {"file": f"{name}.onnx", "inputs": plain(graph.inputs), "outputs": plain(graph.outputs)}
        for name, graph in graphs.items()
    }


def _read_graphs(plain: object, spec: PlannerSpec) -> dict[str, Graph]:
    """Return the graphs that follow from ``spec``, after checking that the manifest says the same."""
    if isinstance(plain, dict) and spec.history > len(plain):  # before as many are made as the file asks for
        raise ValueError(f"graphs: found {sorted(plain)}, expected score_1 to score_{spec.history} from spec.history")
    graphs = graphs_of(spec)
    expected = _plain_graphs(graphs)
    if not isinstance(plain, dict) or sorted(plain) != sorted(expected):
        found = sorted(plain) if isinstance(plain, dict) else plain
        raise ValueError(f"graphs: found {found}, expected {sorted(expected)} from spec.history")
    for name, wanted in expected.items():
        if plain[name] != wanted:
            raise ValueError(f"graphs.{name}: found {plain[name]}, expected {wanted} from spec")
    return graphs


def _read_manifest(file: Path) -> dict[str, Any]:
    again = "export the bundle again, or copy it again as a whole"
    text = file.read_bytes()
    manifest = parse_json(text, where=str(file), remedy=again)
    if "schema" not in manifest:
        raise ValueError(f"{file}: found no field 'schema', expected a bundle's manifest; {again}")
    if manifest["schema"] != SCHEMA:
        raise ValueError(
            f"{file}: schema: found {manifest['schema']!r}, expected {SCHEMA}; export the bundle with this version of "
            "jepakit, or install the one that wrote it"
        )
    if sorted(manifest) != sorted(_KEYS):
        raise ValueError(f"{file}: found the fields {sorted(manifest)}, expected {sorted(_KEYS)}; {again}")
    if text != _render(manifest).encode():
        raise ValueError(f"{file}: sha256: does not fit the file, which was changed after the export; {again}")
    if manifest["precision"] not in PRECISIONS:
        raise ValueError(f"{file}: precision: found {manifest['precision']!r}, expected one of {', '.join(PRECISIONS)}")
    if manifest["opset"] not in OPSETS:
        raise ValueError(
            f"{file}: opset: found {manifest['opset']!r}, expected {OPSETS.start} to {OPSETS[-1]}; export with --opset"
        )
    return manifest


def _render(values: Mapping[str, Any]) -> str:
    """JSON text of a manifest with the hash of everything before it as its last field."""
    body = {key: value for key, value in values.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1) + "\n"


def _check_files(folder: Path, files: object, needed: set[str], *, verify: bool) -> None:
    where = f"{folder / MANIFEST}: files"
    if not isinstance(files, dict):
        raise ValueError(f"{where}: found {files!r}, expected names with sha256 and bytes")
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{where}: found the name {name!r}, expected plain names of files in the bundle's folder")
    if set(files) != needed:
        raise ValueError(f"{where}: found {sorted(files)}, expected {sorted(needed)}")
    for name, entry in files.items():
        if not isinstance(entry, dict) or sorted(entry) != ["bytes", "sha256"]:
            raise ValueError(f"{where}.{name}: found {entry!r}, expected sha256 and bytes")
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; copy the bundle again as a whole")
        if path.stat().st_size != entry["bytes"]:
            raise ValueError(
                f"{path}: found {path.stat().st_size} bytes, expected {entry['bytes']}; copy the bundle again"
            )
        if verify and _hash(path) != entry["sha256"]:
            raise ValueError(f"{path}: sha256 differs from the manifest's, expected {entry['sha256']}; copy it again")


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
