"""From a world model to ONNX graphs in memory.

Shapes: B environments, T frames, N latent tokens per frame, D latent width, S candidates, K horizon in blocks, A
action-block width, P proprio width, Q quantities read off the latents, h and w pixels.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset18
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from jepakit.export.bundle import CONTROLLER, Graph, TensorType
from jepakit.export.onnx_files import add_weight
from jepakit.export.runtime.torch_backend import GoalCost
from jepakit.zoo.base import WorldModel
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.layers.cnn import CNNEncoder
from jepakit.zoo.layers.heads import Projector
from jepakit.zoo.readout import Readout

op: Any = opset18  # the exporter converts to the opset asked for
_EXAMPLE = {"B": 2, "S": 3}
_FOLDED = ("Transpose", "Split", "Slice")  # of weights: however large, they become weights of their own


class EncoderGraph(nn.Module):
    """Frames (B, T, h, w, 3) [and proprioception (B, T, P)] to latents (B, T, N, D)."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Encode."""
        observation = {"pixels": pixels} if proprio is None else {"pixels": pixels, "proprio": proprio}
        return self.model.encode(observation)


class ScoreGraph(nn.Module):
    """Candidates to the distance (B, S, K) to the goal after every block [and what is read off the latents].

    The inputs are those of ``bundle.graphs_of``, in their order; ``past_actions`` is left out where it is empty.
    """

    def __init__(self, model: WorldModel, readout: Readout | None, distance: GoalCost | None = None) -> None:
        super().__init__()
        self.model = model
        self.readout = readout
        self.judge = model if distance is None else distance

    def forward(self, history: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Imagine and judge."""
        *past, candidates, goal = others
        past_actions = past[0] if past else history.new_zeros(history.shape[0], 0, candidates.shape[-1])
        predicted = self.model.rollout(history, past_actions, candidates)
        # To the cost, a step of a candidate is just one more prediction: (B, S·K, N, D).
        distance = self.judge.goal_cost(predicted.flatten(1, 2), goal).reshape(candidates.shape[:3])
        return (distance,) if self.readout is None else (distance, self.readout(predicted))


class ControllerGraph(nn.Module):
    """Latents and goal (B, N, D) and offsets (B,) to raw plans (B, M, K, A) and their log weights (B, M)."""

    def __init__(self, controller: ControllerModel) -> None:
        super().__init__()
        self.controller = controller

    def forward(self, latents: Tensor, goal: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Propose."""
        return self.controller.propose(latents, goal, offset)


def network_of(
    name: str,
    model: WorldModel,
    readout: Readout | None,
    controller: ControllerModel | None = None,
    distance: GoalCost | None = None,
) -> nn.Module:
    """Return the PyTorch module behind a bundle's graph."""
    if name == CONTROLLER:
        assert controller is not None
        return ControllerGraph(controller)
    return EncoderGraph(model) if name.startswith("encoder") else ScoreGraph(model, readout, distance)


def prepare(model: WorldModel) -> WorldModel:
    """Return a copy to export: on the CPU, in evaluation mode, batch norms folded into the maps before them."""
    prepared = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for module in list(prepared.modules()):
        if isinstance(module, Projector):
            module.expand = fuse_linear_bn_eval(module.expand, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        encoder = getattr(module, "encoder", None)
        if isinstance(encoder, CNNEncoder):
            module.encoder = encoder.folded()
    return prepared


def export_graph(network: nn.Module, graph: Graph, *, opset: int) -> ir.Model:
    """Trace ``network`` into an ONNX model with the inputs and outputs of ``graph``, constants folded.

    Raises ``RuntimeError`` with the exporter's reason where a part of the network has no ONNX form.
    """
    letters = {letter: torch.export.Dim(letter) for letter in _EXAMPLE}
    arguments, shapes = [], []
    for tensor in graph.inputs.values():
        arguments.append(_example(tensor))
        shapes.append({axis: letters[size] for axis, size in enumerate(tensor.shape) if isinstance(size, str)})
    with _quiet():
        exported = torch.onnx.export(
            network,
            tuple(arguments),
            dynamo=True,
            dynamic_shapes=_nested(network, shapes),
            opset_version=opset,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            optimize=False,
            verbose=False,
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
        )
    assert exported is not None
    model = exported.model
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_worth_folding)
    _name_nodes(model)
    _split_gemms(model)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.NameFixPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        tidy(model)
    _check(model, graph)
    return model


def random_inputs(graph: Graph, sizes: dict[str, int], rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Draw inputs of a graph: bytes for pixels, standard normals for the rest."""
    inputs: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in graph.inputs.items():
        shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
        if tensor.dtype == "uint8":
            inputs[name] = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            inputs[name] = rng.standard_normal(shape, dtype=np.float32)
    return inputs


def _example(tensor: TensorType) -> Tensor:
    shape = [_EXAMPLE[size] if isinstance(size, str) else size for size in tensor.shape]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))


def _nested(network: nn.Module, shapes: list[dict[int, Any]]) -> tuple[Any, ...]:
    """Dynamic shapes in the form of ``forward``'s arguments, where those after the first of a score are one tuple."""
    return (shapes[0], tuple(shapes[1:])) if isinstance(network, ScoreGraph) else tuple(shapes)


def _attention(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    """Attention in basic operators with a constant causal mask; the exporter's own computes it anew in every layer."""
    assert query.shape is not None
    assert key.shape is not None
    rows, columns, width = (int(str(size)) for size in (query.shape[-2], key.shape[-2], query.shape[-1]))
    scaled = op.Mul(query, op.Constant(value_float=scale or 1.0 / math.sqrt(width)))
    scores = op.MatMul(scaled, op.Transpose(key, perm=[0, 1, 3, 2]))
    if is_causal:
        later = np.triu(np.full((rows, columns), -np.inf, np.float32), 1)
        scores = op.Add(scores, op.Constant(value=ir.tensor(later)))
    elif attn_mask is not None:
        scores = op.Where(attn_mask, scores, op.Constant(value_float=-math.inf))
    mixed: ir.Value = op.MatMul(op.Softmax(scores, axis=-1), value)
    return mixed


def _worth_folding(node: ir.Node) -> bool | None:
    return True if node.op_type in _FOLDED else None


def _name_nodes(model: ir.Model) -> None:
    """Name every node after the module it comes from, which is how precision settings find it."""
    for index, node in enumerate(model.graph):
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope]
        node.name = f"{modules[-1].removeprefix('model.') if modules else 'graph'}/{node.op_type}_{index}"


def _split_gemms(model: ir.Model) -> None:
    """Write Gemm as MatMul and Add, its weight transposed, so that there is one kind of matrix product.

    Engines join them again where that is faster.
    """
    for gemm in [node for node in model.graph if node.op_type == "Gemm"]:
        x, weight, *bias = gemm.inputs
        assert x is not None
        assert weight is not None
        assert weight.const_value is not None
        if gemm.attributes.get_int("transB", 0):
            array = np.ascontiguousarray(weight.const_value.numpy().T)
            weight = add_weight(model, f"{weight.name}_transposed", array)
        out = gemm.outputs[0]
        product = ir.node("MatMul", [x, weight], name=f"{gemm.name}/MatMul")
        product.outputs[0].name = f"{out.name}_product"
        product.outputs[0].shape, product.outputs[0].type = out.shape, out.type
        new = [product]
        if bias:
            new.append(ir.node("Add", [product.outputs[0], bias[0]], name=f"{gemm.name}/Add"))
        ir.convenience.replace_nodes_and_values(model.graph, gemm, [gemm], new, [out], [new[-1].outputs[0]])


def _check(model: ir.Model, graph: Graph) -> None:
    """Raise ``RuntimeError`` unless ``model`` has the inputs and outputs of ``graph`` and neither noise nor loops."""
    for values, wanted in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        found = {str(value.name): _type(value) for value in values}
        if found != wanted:
            raise RuntimeError(f"exported graph: found {found}, expected {wanted}")
    banned = {"Loop", "Scan", "If", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    if unwanted := sorted({node.op_type for node in model.graph} & banned):
        raise RuntimeError(f"exported graph: found the operators {unwanted}, expected none that loop, branch or draw")


def _type(value: ir.Value) -> TensorType:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorType(str(value.dtype.numpy()), shape)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself to itself; errors still come."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    # Not logging.disable: torch then never learns that nobody reads its traces, and takes twice as long to write them.
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
