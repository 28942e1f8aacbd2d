"""The runner on fakes of CUDA and TensorRT that have the real bindings' signatures. No GPU has run it here.

The fakes are strict where hardware would be: work happens when the stream is synchronised, not before; a CUDA graph
can only be captured of a context that has run; whatever is allocated must be given back.
"""

import ctypes
import re

import numpy as np
import pytest
import tensorrt_lean_bindings
import tensorrt_rtx
from cuda.bindings import runtime as cuda_runtime

from jepakit.export.bundle import Graph, TensorType
from jepakit.export.runtime.cuda import Cuda, CudaError
from jepakit.export.runtime.tensorrt_backend import EngineRunner
from jepakit.export.runtime.tensorrt_library import EngineConfig, shape_at

GRAPH = Graph(
    {
        "history": TensorType("float32", ("B", 1, 2)),
        "candidates": TensorType("float32", ("B", "S", 3, 2)),
        "goal": TensorType("float32", ("B", 2)),
    },
    {"distance": TensorType("float32", ("B", "S", 3)), "readout": TensorType("float32", ("B", "S", 3, 1))},
)
CONFIG = EngineConfig(candidates=(2, 5, 7), environments=(1, 2, 3))


def score(history, candidates, goal):
    steps = history[:, None] + np.cumsum(candidates, axis=2)
    return {"distance": np.square(steps - goal[:, None, None]).sum(-1), "readout": steps[..., :1]}


class FakeCudaRuntime:
    """``cuda.bindings.runtime`` on memory of this process."""

    cudaStreamNonBlocking = cuda_runtime.cudaStreamNonBlocking
    cudaMemcpyKind = cuda_runtime.cudaMemcpyKind
    cudaStreamCaptureMode = cuda_runtime.cudaStreamCaptureMode

    def __init__(self, memory=1 << 20):
        self.memory, self.blocks, self.streams, self.graphs = memory, {}, {}, {}
        self.capturing = None
        self.launched = 0

    def cudaMalloc(self, size):
        if sum(map(len, self.blocks.values())) + size > self.memory:
            return cuda_runtime.cudaError_t.cudaErrorMemoryAllocation, None
        block = np.full(size, 0xFF, np.uint8)  # NaN: nothing may be read that was not written
        self.blocks[block.ctypes.data] = block
        return 0, block.ctypes.data

    def cudaMallocHost(self, size):
        return self.cudaMalloc(size)

    def cudaFree(self, devPtr):
        del self.blocks[devPtr]
        return (0,)

    def cudaFreeHost(self, ptr):
        return self.cudaFree(ptr)

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == cuda_runtime.cudaStreamNonBlocking
        stream = cuda_runtime.cudaStream_t(len(self.streams) + 1)
        self.streams[int(stream)] = []
        return 0, stream

    def cudaStreamDestroy(self, stream):
        del self.streams[int(stream)]
        return (0,)

    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        assert isinstance(kind, cuda_runtime.cudaMemcpyKind)
        assert count <= min(len(self.blocks[dst]), len(self.blocks[src]))
        self.enqueue(stream, lambda: ctypes.memmove(dst, src, count))
        return (0,)

    def cudaStreamSynchronize(self, stream):
        assert self.capturing is None, "synchronising would invalidate the capture"
        queue = self.streams[int(stream)]
        while queue:
            queue.pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert isinstance(mode, cuda_runtime.cudaStreamCaptureMode)
        assert not self.streams[int(stream)], "work is pending"
        self.capturing = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        self.graphs[len(self.graphs) + 1], self.capturing = self.capturing, None
        return 0, len(self.graphs)

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        return 0, ("executable", self.graphs[graph])

    def cudaGraphDestroy(self, graph):
        self.graphs[graph] = None
        return (0,)

    def cudaGraphExecDestroy(self, graphExec):
        self.launched = -1
        return (0,)

    def cudaGraphLaunch(self, graphExec, stream):
        self.launched += 1
        self.streams[int(stream)] += graphExec[1]
        return (0,)

    def cudaGetDeviceProperties(self, device):
        card = cuda_runtime.cudaDeviceProp()
        card.name, card.major, card.minor = b"Fake Orin".ljust(256, b"\0"), 8, 7
        return 0, card

    def cudaGetErrorName(self, error):
        return cuda_runtime.cudaGetErrorName(error)

    def cudaGetErrorString(self, error):
        return cuda_runtime.cudaGetErrorString(error)

    def enqueue(self, stream, work):
        if self.capturing is None:
            self.streams[int(stream)].append(work)
        else:
            self.capturing.append(work)

    def array(self, address, dtype, shape):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= len(self.blocks[address])
        return self.blocks[address][:size].view(dtype).reshape(shape)


class FakeExecutionContext:
    """``IExecutionContext``: computes with a function of arrays."""

    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.ready = engine, {}, {}, False

    def set_input_shape(self, name, shape):
        assert isinstance(shape, tuple)
        self.shapes[name] = shape
        return self.engine.accepts

    def get_tensor_shape(self, name):
        sizes = {"B": next(iter(self.shapes.values()))[0], "S": self.shapes.get("candidates", (0, 0))[1]}
        return list(shape_at(self.engine.graph.outputs[name], sizes))

    def set_tensor_address(self, name, memory):
        assert isinstance(memory, int)
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert isinstance(stream_handle, int)
        assert stream_handle, "the default stream"
        cuda, graph = self.engine.cuda, self.engine.graph
        if cuda.capturing is not None and not self.ready:
            return False

        def work():
            inputs = {
                name: cuda.array(self.addresses[name], tensor.dtype, self.shapes[name])
                for name, tensor in graph.inputs.items()
            }
            for name, found in self.engine.compute(**inputs).items():
                cuda.array(self.addresses[name], "f4", found.shape)[...] = found
            self.ready = True

        cuda.enqueue(stream_handle, work)
        return True


class FakeCudaEngine:
    """``ICudaEngine``."""

    def __init__(self, cuda, graph=GRAPH, compute=score):
        self.cuda, self.graph, self.compute, self.accepts, self.contexts = cuda, graph, compute, True, []

    def create_execution_context(self):
        self.contexts.append(FakeExecutionContext(self))
        return self.contexts[-1]


def parameters(documented):
    """The names of the arguments in the first line or the overloads of a compiled function's docstring."""
    lines = [line for line in documented.splitlines() if re.match(r"^(\d+\. )?\w+\(", line)]
    overloads = []
    for line in lines:
        inside = re.search(r"\((.*?)\)(?: ->|$)", line)[1]
        words = [part.split(":")[0].split("=")[0].split()[-1] for part in inside.split(",") if part.strip()]
        overloads.append([word for word in words if word != "self"])
    return overloads


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (FakeCudaRuntime, cuda_runtime),
        (FakeExecutionContext, tensorrt_rtx.IExecutionContext),
        (FakeExecutionContext, tensorrt_lean_bindings.IExecutionContext),
        (FakeCudaEngine, tensorrt_rtx.ICudaEngine),
        (FakeCudaEngine, tensorrt_lean_bindings.ICudaEngine),
    ],
)
def test_the_fakes_have_the_real_signatures(fake, real):
    ours = {"enqueue", "array"}
    methods = {name: method for name, method in vars(fake).items() if callable(method) and name[0] != "_"}
    methods = {name: method for name, method in methods.items() if name not in ours and not isinstance(method, type)}
    assert methods
    for name, method in methods.items():
        arguments = list(method.__code__.co_varnames[1 : method.__code__.co_argcount])
        documented = parameters(getattr(real, name).__doc__)
        assert any(arguments == found[: len(arguments)] for found in documented), (name, arguments, documented)


def draw(batch, count, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"history": (batch, 1, 2), "candidates": (batch, count, 3, 2), "goal": (batch, 2)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def make_runner(cuda=None, config=CONFIG, **options):
    cuda = cuda or FakeCudaRuntime()
    engine = FakeCudaEngine(cuda)
    return EngineRunner(engine, GRAPH, config, Cuda(cuda), name="score_1.engine", **options), cuda, engine


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8, 20])
def test_every_size_gives_what_the_function_gives(batch, count, cuda_graphs):
    runner, _, _ = make_runner(cuda_graphs=cuda_graphs)
    for seed in (0, 1):  # the second call must not see the first one's numbers
        inputs = draw(batch, count, seed)
        found, expected = runner(inputs), score(**inputs)
        assert list(found) == list(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def test_answers_are_copies():
    runner, _, _ = make_runner()
    first = runner(draw(1, 5))["distance"]
    kept = first.copy()
    runner(draw(1, 5, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_memory_is_allocated_once_and_given_back():
    runner, cuda, _ = make_runner()
    allocated = dict(cuda.blocks)
    assert len(allocated) == 2 * 5  # on the GPU and pinned, per tensor
    for count in (1, 5, 20):
        runner(draw(2, count))
    assert cuda.blocks.keys() == allocated.keys()
    runner.close()
    assert not cuda.blocks
    assert not cuda.streams
    assert cuda.launched == -1


def test_a_graph_is_captured_per_size_and_replayed():
    runner, cuda, engine = make_runner()
    assert [context.shapes["candidates"][:2] for context in engine.contexts] == [(1, 2), (2, 5), (3, 7)]
    assert cuda.graphs == {1: None, 2: None, 3: None}  # instantiated, then destroyed
    for _ in range(4):
        runner(draw(2, 5))
    assert cuda.launched == 4
    direct, cuda, _ = make_runner(cuda_graphs=False)
    direct(draw(2, 5))
    assert (cuda.graphs, cuda.launched) == ({}, 0)


def test_sizes_that_do_not_differ_for_a_graph_are_prepared_once():
    _, _, engine = make_runner(config=EngineConfig(candidates=(4, 4, 4), environments=(1, 1, 1)))
    assert len(engine.contexts) == 1


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("goal", np.zeros((1, 2)), r"goal: found float64 of shape \(1, 2\), expected float32 of shape \('B', 2\)"),
        ("goal", np.zeros((2, 2), np.float32), r"goal: found float32 of shape \(2, 2\), .* with {'B': 1, 'S': 5}"),
        ("candidates", np.zeros((1, 0, 3, 2), np.float32), r"candidates: found float32 of shape \(1, 0, 3, 2\)"),
        ("candidates", np.zeros((1, 5, 3), np.float32), r"candidates: found float32 of shape \(1, 5, 3\)"),
        ("mask", np.zeros(1, np.float32), r"found \['candidates', 'goal', 'history', 'mask'\], expected \['cand"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, array, message):
    runner, _, _ = make_runner()
    with pytest.raises(ValueError, match=message):
        runner({**draw(1, 5), name: array})


def test_what_fails_on_the_gpu_is_said():
    with pytest.raises(CudaError, match=r"cudaMalloc: cudaErrorMemoryAllocation: out of memory"):
        make_runner(FakeCudaRuntime(memory=10))
    cuda = FakeCudaRuntime()
    engine = FakeCudaEngine(cuda)
    engine.accepts = False
    with pytest.raises(RuntimeError, match=r"x.engine: history: shape \(1, 1, 2\) was refused; build it again"):
        EngineRunner(engine, GRAPH, CONFIG, Cuda(cuda), name="x.engine")
    engine = FakeCudaEngine(cuda)
    engine.create_execution_context = lambda: None
    with pytest.raises(RuntimeError, match=r"x.engine: found no execution context for {'B': 1, 'S': 2}"):
        EngineRunner(engine, GRAPH, CONFIG, Cuda(cuda), name="x.engine")


def test_an_engine_that_does_not_run_is_said():
    runner, _, engine = make_runner(cuda_graphs=False)
    for context in engine.contexts:
        context.execute_async_v3 = lambda stream_handle: False
    with pytest.raises(RuntimeError, match=r"score_1.engine: TensorRT could not run the engine for {'B': 2, 'S': 5}"):
        runner(draw(2, 5))


@pytest.mark.parametrize(
    "call",
    [("cudaMalloc", 8), ("cudaMallocHost", 8), ("cudaStreamCreateWithFlags", 1), ("cudaGetDeviceProperties", 0)],
)
def test_without_a_driver_the_real_calls_say_what_is_missing(call):
    with pytest.raises(CudaError, match=rf"{call[0]}: cudaErrorInsufficientDriver: .*; TensorRT needs an NVIDIA GPU"):
        Cuda()(*call)
