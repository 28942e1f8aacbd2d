"""Lower precision for exported graphs: matrix products in half precision or int8, everything else in float32.

Norms, softmax, activations and distances stay in float32, where rounding would hurt most and cost little. Which parts
of a model keep float32 products, too, is tried in steps: see ``MEASURES``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from jepakit.export.bundle import CONTROLLER
from jepakit.export.onnx_files import add_weight

_PRODUCTS = ("MatMul", "Conv")
_HALF = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_FIRST_BF16_CONV = 22  # opset


@dataclass(frozen=True)
class Measure:
    """Parts of a model that keep float32 products: in words, and as a pattern of "graph/module" names."""

    says: str
    kept: str | None

    def keeps(self, graph: str, node: ir.Node) -> bool:
        """Tell whether ``node`` of ``graph`` keeps float32."""
        return self.kept is not None and re.match(self.kept, f"{graph}/{node.name}") is not None


_OUT = r".*(prediction_projector|output_proj|predictor\.(output|contract))"
_ACTIONS = r".*(action_encoder|modulation|condition_proj)"
_IN = r".*(input_proj|proprio_encoder|\.blocks\.0\.)"

#: What is tried in this order until the verification passes.
MEASURES = (
    Measure("every matrix product", None),
    Measure("all but the encoder", r"encoder"),
    Measure("all but the encoder and the prediction's last maps", rf"encoder|{_OUT}"),
    Measure("all but the encoder, the last maps and what reads actions", rf"encoder|{_OUT}|{_ACTIONS}"),
    Measure(
        "all but the encoder, the last maps, what reads actions and the first layers",
        rf"encoder|{_OUT}|{_ACTIONS}|{_IN}",
    ),
    Measure("the feed-forward layers behind the first ones", rf"encoder|(?!.*feed_forward)|{_IN}"),
)


def distinct_measures(graphs: Mapping[str, ir.Model]) -> Iterator[Measure]:
    """Yield the ``MEASURES`` that make a difference to these graphs, given those before."""
    before: set[tuple[str, str]] | None = None
    for measure in MEASURES:
        products = [
            (name, node)
            for name, model in graphs.items()
            for node in model.graph
            if node.op_type in _PRODUCTS and name != CONTROLLER
        ]
        kept = {(name, str(node.name)) for name, node in products if measure.keeps(name, node)}
        if kept != before:
            yield measure
        before = kept


def lower(graphs: Mapping[str, ir.Model], precision: str, measure: Measure) -> dict[str, ir.Model]:
    """Return copies of float32 graphs with products in ``precision``, but for what ``measure`` keeps."""
    if precision == "fp32":
        return {name: model.clone() for name, model in graphs.items()}
    if precision == "int8":
        return {
            name: model.clone() if name == CONTROLLER else _int8(model, _keeper(name, measure))
            for name, model in graphs.items()
        }
    return _halved(graphs, precision, measure, rounded_only=False)


def rounded(graphs: Mapping[str, ir.Model], precision: str, measure: Measure) -> dict[str, ir.Model]:
    """Return float32 graphs that round what goes into and comes out of a product as ``lower`` does.

    For engines that cannot compute the products themselves, as ONNX Runtime on a CPU cannot in bf16. Sums inside a
    product are float32 here; engines may round those, too.
    """
    return _halved(graphs, precision, measure, rounded_only=True)


def _halved(
    graphs: Mapping[str, ir.Model], precision: str, measure: Measure, *, rounded_only: bool
) -> dict[str, ir.Model]:
    """Return copies with half-precision products, or rounded ones; a controller stays as it is."""
    copies = {name: model.clone() for name, model in graphs.items()}
    for name, model in copies.items():
        if name != CONTROLLER:
            _half(model, _HALF[precision], _keeper(name, measure), rounded_only=rounded_only)
    return copies


def _keeper(graph: str, measure: Measure) -> Callable[[ir.Node], bool]:
    return lambda node: measure.keeps(graph, node)


def _half(model: ir.Model, half: ir.DataType, keeps: Callable[[ir.Node], bool], *, rounded_only: bool) -> None:
    """Give the products of ``model`` inputs and outputs in ``half``, with casts around them."""
    products = list(_PRODUCTS)
    if half == ir.DataType.BFLOAT16 and model.opset_imports[""] < _FIRST_BF16_CONV:
        products.remove("Conv")
    cast: dict[str, ir.Value] = {}
    for node in [node for node in model.graph if node.op_type in products and not keeps(node)]:
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            assert value.name is not None
            if value.name not in cast:
                cast[value.name] = _lowered(model, node, value, half, rounded_only=rounded_only)
            node.replace_input_with(index, cast[value.name])
        _raise_output(model, node, half, rounded_only=rounded_only)
    passes.RemoveUnusedNodesPass()(model)  # the float32 weights


def _lowered(model: ir.Model, node: ir.Node, value: ir.Value, half: ir.DataType, *, rounded_only: bool) -> ir.Value:
    """``value`` in ``half`` (or rounded to it), made before ``node``; weights are converted here and now."""
    name = f"{value.name}_{half.name.lower()}"
    if value.const_value is not None and value.is_initializer():
        array = value.const_value.numpy().astype(half.numpy())
        return add_weight(model, name, array.astype(np.float32) if rounded_only else array)
    casts = [_cast(value, half, name)]
    if rounded_only:
        casts.append(_cast(casts[0].outputs[0], ir.DataType.FLOAT, f"{name}_rounded"))
    model.graph.insert_before(node, casts)
    return casts[-1].outputs[0]


def _raise_output(model: ir.Model, node: ir.Node, half: ir.DataType, *, rounded_only: bool) -> None:
    """Bring what ``node`` returns back to float32 for whoever reads it."""
    out = node.outputs[0]
    assert not out.is_graph_output(), f"{node.name} is an output; graphs end in sums or norms"
    readers = list(out.uses())
    casts = [_cast(out, half, f"{out.name}_{half.name.lower()}")] if rounded_only else []
    last = casts[-1].outputs[0] if casts else out
    casts.append(_cast(last, ir.DataType.FLOAT, f"{out.name}_float"))
    if not rounded_only:
        out.type = ir.TensorType(half)  # a new one: clones share theirs
    for reader, index in readers:
        reader.replace_input_with(index, casts[-1].outputs[0])
    model.graph.insert_after(node, casts)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=f"cast/{name}")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, value.shape, ir.TensorType(dtype)
    return node


def _int8(model: ir.Model, keeps: Callable[[ir.Node], bool]) -> ir.Model:
    """Quantise the products with weights: weights per column in 7 bits, activations by their range in every call.

    x86 processors without VNNI add pairs of 8-bit products in 16 bits, which overflow with weights of 8 bits.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    excluded = [str(node.name) for node in model.graph if node.op_type == "MatMul" and keeps(node)]
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        file = Path(folder) / "quantised.onnx"
        quantize_dynamic(
            ir.to_proto(model),
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
        )
        return ir.from_proto(onnx.load(file))


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the advice to infer shapes first, which graphs from here have done."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
