"""The planner's backend on TensorRT or TensorRT-RTX: CUDA graphs over buffers that are allocated once.

Needs NumPy, ``cuda-bindings`` and the library that built the engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jepakit.export.bundle import Bundle, Graph
from jepakit.export.runtime.calls import GraphBackend, Tensors, in_pieces
from jepakit.export.runtime.cuda import Buffer, Cuda
from jepakit.export.runtime.tensorrt_library import EngineConfig, Library, shape_at
from jepakit.export.tensorrt import Say, build_engines


class TensorRTBackend(GraphBackend):
    """A bundle on TensorRT as a :class:`jepakit.planning.Backend`.

    Builds the engines that are missing or do not fit this machine, which takes a while and is said through ``say``,
    and prepares them for the sizes of ``config``, so that the first plan is as fast as the others.

    Args:
        bundle: the bundle, not int8, or its folder.
        config: what the engines are built for.
        engines: folder of the engines; by default ``engines`` in the bundle's.
        cuda_graphs: replay each engine's work as one CUDA graph instead of launching it kernel by kernel.
        say: is told what is built, and why.
        cuda: the CUDA runtime; ``library``: TensorRT; both opened here unless given.

    Raises ``CudaError`` where there is no GPU, and what ``build_engines`` raises.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        config: EngineConfig | None = None,
        *,
        engines: Path | None = None,
        cuda_graphs: bool = True,
        say: Say = print,
        cuda: Cuda | None = None,
        library: Library | None = None,
    ) -> None:
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        config = config or EngineConfig()
        cuda, library = cuda or Cuda(), library or Library(config.runtime)
        cuda.gpu()  # says clearly if there is none, before minutes of building
        files = build_engines(bundle, config, out=engines, say=say, cuda=cuda, library=library)
        self.spec = bundle.spec
        self._runners = {
            name: EngineRunner(
                library.load(file, bundle.graphs[name], config),
                bundle.graphs[name],
                config,
                cuda,
                name=str(file),
                cuda_graphs=cuda_graphs,
            )
            for name, file in files.items()
        }

    def run(self, graph: str, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Return the outputs of a graph by name."""
        return self._runners[graph](inputs)

    def close(self) -> None:
        """Give the GPU's memory back; the backend is of no use afterwards."""
        for runner in self._runners.values():
            runner.close()
        self._runners = {}


class EngineRunner:
    """An engine with its buffers, and one execution context (and CUDA graph) for each size it was built for.

    Arrays of other sizes are padded with zeros to the next size, or split if they are larger than all.
    """

    def __init__(
        self,
        engine: Any,  # noqa: ANN401 - an ICudaEngine
        graph: Graph,
        config: EngineConfig,
        cuda: Cuda,
        *,
        name: str,
        cuda_graphs: bool = True,
    ) -> None:
        self._graph = graph
        self._name = name
        self._cuda = cuda
        self._tensors = {**graph.inputs, **graph.outputs}
        self._sizes = _distinct(
            config.points(), {length for tensor in self._tensors.values() for length in tensor.shape}
        )
        self._buffers = {
            key: Buffer(cuda, tensor.dtype, shape_at(tensor, self._sizes[-1])) for key, tensor in self._tensors.items()
        }
        # The default stream would make TensorRT synchronise the whole device, and cannot be captured.
        self._stream = cuda("cudaStreamCreateWithFlags", cuda.api.cudaStreamNonBlocking)
        # One context per size: a captured graph refers to its context's memory.
        self._contexts = [self._context(engine, sizes) for sizes in self._sizes]
        self._captured = [self._capture(index) for index in range(len(self._sizes))] if cuda_graphs else []

    def __call__(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Run the engine; raises ``ValueError`` for arrays that are not what the graph takes."""
        self._measure(inputs)
        return in_pieces(self._graph, inputs, self._sizes[-1], self._run)

    def _run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        sizes = self._measure(inputs)
        index = next(index for index, point in enumerate(self._sizes) if all(sizes[key] <= point[key] for key in sizes))
        for name, tensor in self._graph.inputs.items():
            room = self._buffers[name].view(shape_at(tensor, self._sizes[index]))
            if room.shape != inputs[name].shape:
                room[...] = 0
            room[tuple(slice(length) for length in inputs[name].shape)] = inputs[name]
        if self._captured:
            self._cuda("cudaGraphLaunch", self._captured[index], self._stream)
        else:
            self._enqueue(index)
        self._cuda("cudaStreamSynchronize", self._stream)
        return {
            name: self._buffers[name]
            .view(shape_at(tensor, self._sizes[index]))[tuple(slice(length) for length in shape_at(tensor, sizes))]
            .copy()
            for name, tensor in self._graph.outputs.items()
        }

    def close(self) -> None:
        """Give memory, graphs and stream back."""
        for captured in self._captured:
            self._cuda("cudaGraphExecDestroy", captured)
        self._captured, self._contexts = [], []
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers = {}
        self._cuda("cudaStreamDestroy", self._stream)

    def _context(self, engine: Any, sizes: Mapping[str, int]) -> Any:  # noqa: ANN401 - TensorRT's own types
        context = engine.create_execution_context()
        if context is None:
            raise RuntimeError(
                f"{self._name}: found no execution context for {sizes}, perhaps for want of memory; build for fewer "
                "candidates"
            )
        for name, tensor in self._graph.inputs.items():
            if not context.set_input_shape(name, shape_at(tensor, sizes)):
                raise RuntimeError(f"{self._name}: {name}: shape {shape_at(tensor, sizes)} was refused; build it again")
        for name, tensor in self._graph.outputs.items():
            found, expected = tuple(context.get_tensor_shape(name)), shape_at(tensor, sizes)
            if found != expected:
                raise RuntimeError(f"{self._name}: {name}: found shape {found}, expected {expected}; build it again")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.device):
                raise RuntimeError(f"{self._name}: {name}: its address was refused; build it again")
        return context

    def _capture(self, index: int) -> Any:  # noqa: ANN401
        """Record all work of one size; it must have run once, because TensorRT allocates and compiles at first use."""
        self._enqueue(index)
        self._cuda("cudaStreamSynchronize", self._stream)
        mode = self._cuda.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self._stream, mode)
        self._enqueue(index)
        graph = self._cuda("cudaStreamEndCapture", self._stream)
        captured = self._cuda("cudaGraphInstantiate", graph, 0)
        self._cuda("cudaGraphDestroy", graph)
        return captured

    def _enqueue(self, index: int) -> None:
        sizes = self._sizes[index]
        for name, tensor in self._graph.inputs.items():
            self._buffers[name].upload(shape_at(tensor, sizes), self._stream)
        if not self._contexts[index].execute_async_v3(int(self._stream)):
            raise RuntimeError(f"{self._name}: TensorRT could not run the engine for {sizes}; see its log")
        for name, tensor in self._graph.outputs.items():
            self._buffers[name].download(shape_at(tensor, sizes), self._stream)

    def _measure(self, inputs: Tensors) -> dict[str, int]:
        """Return the lengths behind the shape letters, after checking that the arrays are what the graph takes."""
        sizes: dict[str, int] = {}
        if sorted(inputs) != sorted(self._graph.inputs):
            raise ValueError(f"{self._name}: found {sorted(inputs)}, expected {sorted(self._graph.inputs)}")
        for name, tensor in self._graph.inputs.items():
            array = inputs[name]
            fits = array.dtype == tensor.dtype and array.ndim == len(tensor.shape)
            for length, expected in zip(array.shape, tensor.shape, strict=False):
                wanted = sizes.setdefault(expected, length) if isinstance(expected, str) else expected
                fits = fits and length == wanted >= 1
            if not fits:
                raise ValueError(
                    f"{name}: found {array.dtype} of shape {array.shape}, expected {tensor.dtype} of shape "
                    f"{tensor.shape} with {sizes}"
                )
        return sizes


def _distinct(points: list[dict[str, int]], letters: set[int | str]) -> list[dict[str, int]]:
    """Return the sizes of the letters that occur in a graph, each combination once."""
    found: list[dict[str, int]] = []
    for point in points:
        sizes = {letter: size for letter, size in point.items() if letter in letters}
        if sizes not in found:
            found.append(sizes)
    return found
