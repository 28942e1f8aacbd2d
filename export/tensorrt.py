"""TensorRT engines of a bundle, built on the machine that runs them, and kept for as long as they fit.

An engine belongs to one GPU, one TensorRT version, one ONNX file and one range of shapes. All of that is recorded
beside it; whatever differs makes a new one. Networks are strongly typed: precision is what the bundle was exported
with.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepakit.export.bundle import ENGINES, WEIGHTS, Bundle, Graph
from jepakit.export.runtime.cuda import Cuda, CudaError, Gpu
from jepakit.export.runtime.tensorrt_library import EngineConfig, Library, check_tensors, shape_at

_TIMING = "timing.cache"
Say = Callable[[str], object]


def build_engines(
    bundle: Bundle,
    config: EngineConfig | None = None,
    *,
    out: Path | None = None,
    say: Say = print,
    cuda: Cuda | None = None,
    library: Library | None = None,
) -> dict[str, Path]:
    """Build the engines of all graphs that have none here, or one for something else, and return their files.

    ``out`` is ``engines`` in the bundle's folder unless given. ``say`` is told what is built, and why. Without a GPU
    TensorRT raises ``CudaError``; TensorRT-RTX builds all the same, which shows that the graphs can be built, but the
    engines are built again where there is one. Raises ``ValueError`` for a graph that TensorRT cannot build, with what
    its parser and its log say, and for int8 bundles.
    """
    config = config or EngineConfig()
    if bundle.precision == "int8":
        raise ValueError(
            f"{bundle.folder}: precision: found int8, whose operators are ONNX Runtime's own, expected fp32, fp16 or "
            "bf16; export with --precision fp16, or plan with engine onnx"
        )
    folder = out or bundle.folder / ENGINES
    folder.mkdir(parents=True, exist_ok=True)
    library = library or Library(config.runtime)
    gpu = _gpu(cuda or Cuda(), config)
    files = {}
    for name in bundle.graphs:
        key = _key(bundle, name, config, library, gpu)
        file = folder / f"{name}.engine"
        reason = _outdated(file, key)
        if reason:
            say(f"building {file}: {reason}")
            plan = _build(bundle.path(name), bundle.graphs[name], config, library, folder / _TIMING)
            _replace(file, plan)
            if gpu is not None:
                library.load(file, bundle.graphs[name], config)
            # Last: without a record an engine that did not load is built again.
            _replace(_record(file), json.dumps({"key": key, "sha256": _sha256(plan)}, indent=1).encode())
        files[name] = file
    return files


def _gpu(cuda: Cuda, config: EngineConfig) -> Gpu | None:
    try:
        return cuda.gpu()
    except CudaError:
        if config.runtime == "tensorrt":
            raise
        return None


def _key(bundle: Bundle, graph: str, config: EngineConfig, library: Library, gpu: Gpu | None) -> dict[str, Any]:
    return {
        "gpu": "none" if gpu is None else str(gpu),
        "library": str(library),
        "onnx": bundle.hash_of(f"{graph}.onnx"),
        "weights": bundle.hash_of(WEIGHTS),
        "precision": bundle.precision,
        "candidates": list(config.candidates),
        "environments": list(config.environments),
        "workspace_mib": config.workspace_mib,
    }


def _outdated(file: Path, key: dict[str, Any]) -> str:
    """Say why the engine in ``file`` cannot be used; nothing if it can."""
    if not file.is_file():
        return "there is none yet"
    if file.is_symlink() or _record(file).is_symlink():  # as the Hub's cache has its files
        return "the one here was not built here"
    try:
        record = json.loads(_record(file).read_text())
        found, digest = record["key"], record["sha256"]
        changed = [name for name in key if found[name] != key[name]]
    except (OSError, ValueError, KeyError, TypeError):
        return "there is no readable record of what the one here was built for"
    if changed:
        name = changed[0]
        return f"the one here was built for {name} {found[name]}, this is {key[name]}"
    return "" if _sha256(file.read_bytes()) == digest else "the one here is damaged"


def _record(file: Path) -> Path:
    return file.with_suffix(".json")


def _build(onnx: Path, graph: Graph, config: EngineConfig, library: Library, timing: Path) -> bytes:
    """Return the serialised engine of an ONNX file."""
    trt = library.api
    builder = trt.Builder(library.logger)
    # TensorRT 11 knows no other networks and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(os.fspath(onnx)):
        errors = "; ".join(_described(parser.get_error(index)) for index in range(parser.num_errors))
        raise ValueError(
            f"{onnx}: {library} cannot parse this graph: {errors or library.problems()}; export with another --opset"
        )
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    found = ({tensor.name: library.tensor(tensor.dtype, tensor.shape) for tensor in some} for some in (inputs, outputs))
    _check_network(str(onnx), Graph(*found), graph)

    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib << 20)
    # Float32 means float32: with TF32 products an fp32 bundle would no longer score as it was verified to.
    settings.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for name, tensor in graph.inputs.items():
        profile.set_shape(name, *(shape_at(tensor, sizes) for sizes in config.points()))
    if settings.add_optimization_profile(profile) < 0:
        raise ValueError(f"{onnx}: {library} refuses the shapes of {config}: {library.problems()}")
    if config.runtime == "tensorrt":  # TensorRT-RTX has no timings to keep
        load_timings(settings, timing)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise ValueError(
            f"{onnx}: {library} cannot build this graph: {library.problems()}; try another --opset or --precision at "
            "export, or a larger --workspace"
        )
    if config.runtime == "tensorrt":
        save_timings(settings, timing)
    return bytes(memoryview(plan))


def load_timings(settings: Any, file: Path) -> None:  # noqa: ANN401 - an IBuilderConfig
    """Let the builder reuse the kernel timings in ``file``, unless they are another GPU's."""
    kept = file.read_bytes() if file.is_file() else b""
    if not settings.set_timing_cache(settings.create_timing_cache(kept), False):
        settings.set_timing_cache(settings.create_timing_cache(b""), False)


def save_timings(settings: Any, file: Path) -> None:  # noqa: ANN401
    """Keep the builder's kernel timings in ``file``."""
    _replace(file, bytes(memoryview(settings.get_timing_cache().serialize())))


def _check_network(where: str, found: Graph, graph: Graph) -> None:
    """Compare what was parsed with the bundle's graph, in which every length behind a letter is free."""
    check_tensors(where, found, graph, EngineConfig(candidates=(1, 2, 3), environments=(1, 2, 3)))


def _described(error: Any) -> str:  # noqa: ANN401 - an IParserError
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _replace(file: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
