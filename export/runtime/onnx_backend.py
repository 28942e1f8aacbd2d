"""The planner's backend on ONNX Runtime. Needs NumPy and onnxruntime.

Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon
in blocks, A action-block width, P proprio width, Q quantities of a readout, h and w pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from jepakit.export.bundle import Bundle, encoder_name, score_name
from jepakit.export.runtime.calls import check_frames, check_score, padded, pieces
from jepakit.planning.backend import Frames, Scores
from jepakit.planning.solver import Array

Provider = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_REMEDY = "install onnxruntime-gpu for this machine's CUDA in place of onnxruntime, or ask for provider 'cpu'"
_ERRORS_ONLY = 3


class OnnxBackend:
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

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """See :class:`jepakit.planning.Backend`."""
        check_frames(self.spec, frames, proprio)
        batch, count = frames.shape[:2]
        together = count if self.spec.whole_history else 1  # frames that a call sees of one environment
        inputs: dict[str, NDArray[Any]] = {"pixels": frames.reshape(-1, together, *frames.shape[2:])}
        if self.spec.proprio:
            assert proprio is not None
            inputs["proprio"] = proprio.reshape(-1, together, self.spec.proprio)
        latents = np.empty((len(inputs["pixels"]), together, self.spec.tokens, self.spec.width), np.float32)
        graph = encoder_name(self.spec, together)
        for rows in pieces(len(latents), self.environments_per_call * count // together):
            (latents[rows],) = self._run(graph, {name: value[rows] for name, value in inputs.items()})
        return latents.reshape(batch, count, *latents.shape[2:])

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Scores:
        """See :class:`jepakit.planning.Backend`; the distance is the model's own."""
        check_score(self.spec, history, past_actions, candidates, goal)
        horizon = candidates.shape[2]
        candidates = padded(self.spec, candidates)
        graph = score_name(history.shape[1])
        shape = (*candidates.shape[:3], len(self.spec.readout))
        distance = np.empty(shape[:3], np.float32)
        readout = np.empty(shape, np.float32)
        for rows in pieces(len(history), self.environments_per_call):
            context = {"history": history[rows], "goal": goal[rows]}
            if history.shape[1] > 1:
                context["past_actions"] = past_actions[rows]
            for some in pieces(shape[1], self.candidates_per_call):
                found = self._run(graph, {**context, "candidates": candidates[rows, some]})
                distance[rows, some] = found[0]
                if self.spec.readout:
                    readout[rows, some] = found[1]
        read = readout[:, :, :horizon] if self.spec.readout else None
        return Scores(distance=distance[:, :, :horizon], readout=read)

    def _run(self, graph: str, inputs: dict[str, NDArray[Any]]) -> list[Array]:
        outputs: list[Array] = self._sessions[graph].run(None, inputs)
        return outputs


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
