"""A bundle for Two-Room that needs no training: its graphs compute the dot's position and where actions lead it.

Walls are not part of it. Written by hand, so that tests of what runs a bundle need not wait for an export.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from jepakit.export.bundle import Bundle, graphs_of, write_manifest
from jepakit.planning import CEMConfig, MPCConfig, PlannerConfig, PlannerSpec

SIDE, SKIP, HORIZON, SPEED, WORLD = 32, 5, 3, 5.0, 224.0
SPEC = PlannerSpec(
    image_size=SIDE,
    history=1,
    frame_skip=SKIP,
    action_dim=2,
    action_mean=np.zeros(2 * SKIP, np.float32),
    action_std=np.full(2 * SKIP, 0.5, np.float32),
    action_low=np.full(2, -1, np.float32),
    action_high=np.full(2, 1, np.float32),
    tokens=1,
    width=2,
    horizon=HORIZON,
)
PLANNER = PlannerConfig(
    cem=CEMConfig(samples=64, elites=8, iterations=4),
    mpc=MPCConfig(horizon=HORIZON, execute_blocks=1),
    bounded=True,
)


def write_bundle(folder, planner=PLANNER):
    folder.mkdir(parents=True)
    nodes = {"encoder": encoder(), "score_1": score()}
    for name, graph in graphs_of(SPEC).items():
        (folder / f"{name}.onnx").write_bytes(model(name, graph, *nodes[name]).SerializeToString())
    (folder / "weights.bin").write_bytes(b"")
    (folder / "MODEL_CARD.md").write_text("Two-Room, exact.\n")
    values = {"jepakit": "0", "model": {"family": "exact", "config": {}}, "opset": 20, "precision": "fp32"}
    settings = None if planner is None else planner.plain()
    write_manifest(folder, {**values, "planner": settings, "verification": {}, "licence": "Apache-2.0"}, SPEC)
    return Bundle.open(folder)


def encoder():
    """The centre of what is redder than it is green."""
    centres = (np.indices((SIDE, SIDE), np.float32).reshape(2, -1).T[:, ::-1] + 0.5) * WORLD / SIDE
    constants = {
        "red": np.array([[1], [-1], [0]], np.float32),
        "flat": np.array([-1, 1, 1, SIDE * SIDE]),
        "centres": np.ascontiguousarray(centres),
        "ones": np.ones((SIDE * SIDE, 1), np.float32),
    }
    nodes = [
        ("Cast", ["pixels"], "float", {"to": TensorProto.FLOAT}),
        ("MatMul", ["float", "red"], "redness", {}),
        ("Relu", ["redness"], "dot", {}),
        ("Reshape", ["dot", "flat"], "weights", {}),
        ("MatMul", ["weights", "centres"], "weighted", {}),
        ("MatMul", ["weights", "ones"], "total", {}),
        ("Div", ["weighted", "total"], "latents", {}),
    ]
    return nodes, constants


def score():
    """Squared distance between the goal and the position after every block."""
    constants = {
        "low": np.array(-1, np.float32),
        "high": np.array(1, np.float32),
        "sum": SPEED * np.tile(np.eye(2, dtype=np.float32), (SKIP, 1)),
        "blocks": np.array(2),
        "last": np.array([3]),
    }
    nodes = [
        ("Clip", ["candidates", "low", "high"], "clipped", {}),
        ("MatMul", ["clipped", "sum"], "moves", {}),
        ("CumSum", ["moves", "blocks"], "way", {}),
        ("Add", ["way", "history"], "position", {}),
        ("Unsqueeze", ["goal", "one"], "goals", {}),
        ("Sub", ["position", "goals"], "gap", {}),
        ("Mul", ["gap", "gap"], "square", {}),
        ("ReduceSum", ["square", "last"], "distance", {"keepdims": 0}),
    ]
    return nodes, {**constants, "one": np.array([1])}


def model(name, graph, nodes, constants):
    def values(tensors):
        return [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape)
            for key, tensor in tensors.items()
        ]

    made = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in nodes],
        name,
        values(graph.inputs),
        values(graph.outputs),
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
