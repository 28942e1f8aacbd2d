"""What building and running engines have in common: the library, its log, and what an engine must look like.

One code path for TensorRT 10.3 to 11 and TensorRT-RTX 1: only calls that all of them have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jepakit.export.bundle import Graph, TensorType

Runtime = Literal["tensorrt", "tensorrt-rtx"]
#: Smallest, usual and largest number.
Range = tuple[int, int, int]

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What engines are built for.

    Args:
        runtime: TensorRT, for Jetson and servers, or TensorRT-RTX, for GeForce and RTX PRO cards.
        candidates: smallest, usual and largest number of candidates per call, S. The engine is tuned for the usual
            one; other numbers are padded to the next of the three, larger ones split.
        environments: the same for the environments, B; a robot is one.
        workspace_mib: scratch memory the builder may plan with, MiB.

    """

    runtime: Runtime = "tensorrt"
    candidates: Range = (1, 300, 1024)
    environments: Range = (1, 1, 1)
    workspace_mib: int = 1024

    def __post_init__(self) -> None:
        if self.runtime not in _MODULES:
            raise ValueError(f"EngineConfig.runtime: found {self.runtime!r}, expected one of {', '.join(_MODULES)}")
        for name in ("candidates", "environments"):
            least, usual, most = getattr(self, name)
            if not 1 <= least <= usual <= most:
                raise ValueError(
                    f"EngineConfig.{name}: found {least},{usual},{most}, expected 1 <= smallest <= usual <= largest"
                )
        if self.workspace_mib < 1:
            raise ValueError(f"EngineConfig.workspace_mib: found {self.workspace_mib}, expected at least 1")

    def points(self) -> list[dict[str, int]]:
        """Return the sizes behind the shape letters B and S: smallest, usual and largest."""
        return [{"B": batch, "S": count} for batch, count in zip(self.environments, self.candidates, strict=True)]


def shape_at(tensor: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a tensor with ``sizes`` for its letters."""
    return tuple(sizes[length] if isinstance(length, str) else length for length in tensor.shape)


class Library:
    """TensorRT or TensorRT-RTX, and the errors it has logged since they were last taken."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.api: Any = import_module(_MODULES[runtime])
        self._problems: list[str] = []
        self._loader: Any = None
        self.logger = _logger(self.api, self._problems)
        self._names = {self.api.DataType.FLOAT: "float32", self.api.DataType.UINT8: "uint8"}

    def __str__(self) -> str:
        return f"{self.runtime} {self.api.__version__}"

    def problems(self) -> str:
        """Return and forget the logged errors, for the end of an error message."""
        found = "; ".join(self._problems) or "no error was logged"
        self._problems.clear()
        return found

    def tensor(self, dtype: Any, shape: Any) -> TensorType:  # noqa: ANN401 - the library's own types
        """Describe a tensor of a network or engine as a bundle does, with -1 for lengths that may vary."""
        return TensorType(self._names.get(dtype, str(dtype)), tuple(int(length) for length in shape))

    def load(self, file: Path, graph: Graph, config: EngineConfig) -> Any:  # noqa: ANN401
        """Read an engine and check that it takes and returns what ``graph`` says, in the sizes of ``config``.

        Raises ``ValueError`` if it cannot be read here or is another one.
        """
        if self._loader is None:
            self._loader = self.api.Runtime(self.logger)  # must live as long as its engines
        engine = self._loader.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise ValueError(f"{file}: {self} cannot load this engine: {self.problems()}")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: self.tensor(engine.get_tensor_dtype(name), engine.get_tensor_shape(name)) for name in names}
        mode = self.api.TensorIOMode.INPUT
        inputs = {name: found[name] for name in names if engine.get_tensor_mode(name) == mode}
        outputs = {name: found[name] for name in names if name not in inputs}
        check_tensors(str(file), Graph(inputs, outputs), graph, config)
        for name, tensor in graph.inputs.items():
            profile = [tuple(int(length) for length in shape) for shape in engine.get_tensor_profile_shape(name, 0)]
            expected = [shape_at(tensor, sizes) for sizes in config.points()]
            if profile != expected:
                raise ValueError(f"{file}: {name}: found the shapes {profile}, expected {expected}; build it again")
        return engine


def check_tensors(where: str, found: Graph, expected: Graph, config: EngineConfig) -> None:
    """Raise ``ValueError`` unless names, types and shapes are those of the bundle's graph.

    Lengths that ``config`` leaves a choice for must be free.
    """
    for kind in ("inputs", "outputs"):
        here: dict[str, TensorType] = getattr(found, kind)
        wanted: dict[str, TensorType] = getattr(expected, kind)
        if sorted(here) != sorted(wanted):
            raise ValueError(f"{where}: {kind}: found {sorted(here)}, expected {sorted(wanted)}")
        for name, tensor in wanted.items():
            if here[name].dtype != tensor.dtype or not _fits(here[name].shape, tensor, config):
                raise ValueError(
                    f"{where}: {name}: found {here[name].dtype} {here[name].shape}, expected {tensor.dtype} "
                    f"{tensor.shape}; a strongly typed network keeps the types of the ONNX file, so export it again"
                )


def _fits(shape: tuple[int | str, ...], tensor: TensorType, config: EngineConfig) -> bool:
    points = config.points()

    def allowed(length: int | str) -> set[int]:
        if not isinstance(length, str):
            return {length}
        choices = {sizes[length] for sizes in points}
        return {-1} if len(choices) > 1 else {-1, *choices}

    return len(shape) == len(tensor.shape) and all(
        map(lambda found, length: found in allowed(length), shape, tensor.shape)
    )


def _logger(api: Any, problems: list[str]) -> Any:  # noqa: ANN401
    """Make a logger that keeps errors and drops the thousands of lines below them."""
    severe = (api.ILogger.Severity.INTERNAL_ERROR, api.ILogger.Severity.ERROR)

    class Log(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if severity in severe:
                problems.append(message)

    return Log()
