"""The planner's backend on ONNX Runtime. Needs NumPy and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort
from numpy.typing import NDArray

from jepakit.export.bundle import Bundle
from jepakit.export.runtime.calls import GraphBackend, Tensors, in_pieces

Provider = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_REMEDY = "install onnxruntime-gpu for this machine's CUDA in place of onnxruntime, or ask for provider 'cpu'"
_ERRORS_ONLY = 3


class OnnxBackend(GraphBackend):
    """A bundle on ONNX Runtime as a :class:`jepakit.planning.Backend`. All its graphs are loaded at once.

    Args:
        bundle: the bundle or its folder, which is checked then.
        provider: what computes. If it is not there, or a graph would run elsewhere, that is an error.
        threads: threads of one operation. They sleep between operations instead of spinning, so that a camera driver
            or a controller beside the planner gets its share.
        candidates_per_call: candidates imagined at once; bounds the memory. With int8 it also changes the last digits,
            because activations are scaled over a whole call.
        environments_per_call: environments computed at once; see ``TorchBackend``.

    Raises ``ValueError`` for a provider that is missing and what ``Bundle.open`` raises.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        provider: Provider = "cpu",
        threads: int = 1,
        candidates_per_call: int = 512,
        environments_per_call: int = 1,
    ) -> None:
        for name, value in (
            ("threads", threads),
            ("candidates_per_call", candidates_per_call),
            ("environments_per_call", environments_per_call),
        ):
            if value < 1:
                raise ValueError(f"OnnxBackend.{name}: found {value}, expected at least 1")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.spec = self.bundle.spec
        self.candidates_per_call = candidates_per_call
        self.environments_per_call = environments_per_call
        _require(provider, self.bundle.precision)
        options = _options(threads)
        self._sessions = {name: _session(self.bundle.path(name), options, provider) for name in self.bundle.graphs}

    def run(self, graph: str, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Return the outputs of a graph by name."""
        most = {"B": self.environments_per_call, "S": self.candidates_per_call}
        session, names = self._sessions[graph], list(self.bundle.graphs[graph].outputs)
        return in_pieces(
            self.bundle.graphs[graph],
            inputs,
            most,
            lambda piece: dict(zip(names, session.run(names, dict(piece)), strict=True)),
        )


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _require(provider: str, precision: str) -> None:
    if provider not in _PROVIDERS:
        raise ValueError(f"provider: found {provider!r}, expected one of {', '.join(_PROVIDERS)}")
    available = ort.get_available_providers()
    if _PROVIDERS[provider] not in available:
        raise ValueError(
            f"provider: {provider!r} is not part of this ONNX Runtime, which has {', '.join(available)}; {_REMEDY}"
        )
    if precision == "bf16" and provider == "cpu":
        raise ValueError(
            "precision: found a bf16 bundle, which ONNX Runtime cannot compute on a CPU; run it with TensorRT or "
            "export it with another --precision"
        )


def _session(file: Path, options: ort.SessionOptions, provider: Provider) -> ort.InferenceSession:
    wanted = _PROVIDERS[provider]
    session = ort.InferenceSession(file, options, providers=[wanted])
    if session.get_providers()[0] != wanted:  # its libraries did not load: ONNX Runtime has gone on with the CPU
        raise ValueError(f"{file}: provider {provider!r} could not be loaded (ONNX Runtime says why above); {_REMEDY}")
    return session
