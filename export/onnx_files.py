"""Writing ONNX graphs that share one file of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from jepakit.export.bundle import WEIGHTS

_SMALL = 1024  # bytes; smaller constants, among them all shapes, stay in their graph, where parsers want them
_ALIGNMENT = 64  # bytes; weights are mapped into memory and read by vector instructions


def write_graphs(graphs: Mapping[str, ir.Model], folder: Path) -> None:
    """Write every graph as ``<name>.onnx`` and their weights, equal ones once, into ``weights.bin``.

    The models are changed: afterwards their weights lie in that file.
    """
    places: dict[tuple[str, tuple[int, ...], bytes], int] = {}
    with (folder / WEIGHTS).open("wb") as weights:
        for model in graphs.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                assert tensor is not None
                content = tensor.tobytes()
                if len(content) < _SMALL:
                    continue
                shape = tensor.numpy().shape
                key = (tensor.dtype.name, shape, hashlib.sha256(content).digest())
                if key not in places:
                    weights.write(bytes(-weights.tell() % _ALIGNMENT))
                    places[key] = weights.tell()
                    weights.write(content)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    places[key],
                    len(content),
                    tensor.dtype,
                    shape=ir.Shape(shape),
                    name=str(value.name),
                    base_dir=folder,
                )
    for name, model in graphs.items():
        ir.save(model, folder / f"{name}.onnx")


def add_weight(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """Give the graph of ``model`` a weight, once; returns it."""
    if name not in model.graph.initializers:
        tensor = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
        model.graph.register_initializer(value)
    return model.graph.initializers[name]
