"""CUDA without PyTorch: checked calls of ``cuda.bindings.runtime``, the GPU's name, and pairs of buffers."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SUCCESS = 0
_NO_GPU = ("cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorStubLibrary", "cudaErrorSystemDriverMismatch")


class CudaError(RuntimeError):
    """A CUDA call that failed."""


@dataclass(frozen=True)
class Gpu:
    """A GPU's name and compute capability: what engines are tied to."""

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (SM {self.capability[0]}{self.capability[1]})"


class Cuda:
    """The CUDA runtime, every status checked: ``cuda("cudaMalloc", bytes)`` returns what the call returns.

    Raises ``CudaError`` naming the call and CUDA's reason; without a driver or GPU it says what to do. ``api`` is
    ``cuda.bindings.runtime`` unless a test brings its own.
    """

    def __init__(self, api: Any = None) -> None:  # noqa: ANN401 - a module of another package
        self.api = import_module("cuda.bindings.runtime") if api is None else api

    def __call__(self, function: str, *arguments: Any) -> Any:  # noqa: ANN401 - CUDA's own types
        """Call ``function``; returns its value, or a tuple of several."""
        status, *values = getattr(self.api, function)(*arguments)
        if int(status) != _SUCCESS:
            raise CudaError(self._explain(function, status))
        return values[0] if len(values) == 1 else tuple(values)

    def gpu(self) -> Gpu:
        """Return the first GPU, the one that engines are built for and run on."""
        found = self("cudaGetDeviceProperties", 0)
        return Gpu(name=found.name.decode().rstrip("\0"), capability=(int(found.major), int(found.minor)))

    def _explain(self, function: str, status: Any) -> str:  # noqa: ANN401
        _, name = self.api.cudaGetErrorName(status)
        _, reason = self.api.cudaGetErrorString(status)
        message = f"{function}: {name.decode()}: {reason.decode()}"
        if name.decode() in _NO_GPU:
            message += "; TensorRT needs an NVIDIA GPU and its driver: run this on the robot, or plan with engine onnx"
        return message


class Buffer:
    """Memory on the GPU and as much pinned memory beside it, for arrays of up to ``shape``; allocated once.

    ``device`` is the address on the GPU, ``view`` looks at the pinned memory.
    """

    def __init__(self, cuda: Cuda, dtype: str, shape: tuple[int, ...]) -> None:
        self._cuda = cuda
        self.dtype = np.dtype(dtype)
        size = self.nbytes(shape)
        self.device = int(cuda("cudaMalloc", size))
        self.host = int(cuda("cudaMallocHost", size))
        self._bytes = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(self.host))

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes an array of ``shape`` takes."""
        return math.prod(shape) * self.dtype.itemsize

    def view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the first numbers of the pinned memory as an array of ``shape``; writing to it writes there."""
        array: NDArray[Any] = self._bytes[: self.nbytes(shape)].view(self.dtype).reshape(shape)
        return array

    def upload(self, shape: tuple[int, ...], stream: Any) -> None:  # noqa: ANN401
        """Begin to copy an array of ``shape`` to the GPU."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpyAsync", self.device, self.host, self.nbytes(shape), kind, stream)

    def download(self, shape: tuple[int, ...], stream: Any) -> None:  # noqa: ANN401
        """Begin to copy an array of ``shape`` from the GPU."""
        kind = self._cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpyAsync", self.host, self.device, self.nbytes(shape), kind, stream)

    def free(self) -> None:
        """Give the memory back; views are no longer valid."""
        self._cuda("cudaFree", self.device)
        self._cuda("cudaFreeHost", self.host)
