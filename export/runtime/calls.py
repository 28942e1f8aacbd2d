"""What every engine does around its calls: check what comes in, pad short plans, cut large calls into pieces.

Needs NumPy only. Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S
candidates, K horizon in blocks, A action-block width, P proprio width, Q quantities of a readout, h and w pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.export.bundle import CONTROLLER, Graph, encoder_name, score_name
from jepakit.planning.backend import Frames, PlannerSpec, Scores, likeliest_first
from jepakit.planning.solver import Array

Tensors = Mapping[str, NDArray[Any]]
Call = Callable[[Tensors], dict[str, NDArray[Any]]]


class GraphBackend(ABC):
    """A :class:`jepakit.planning.Backend` whose work is done by the graphs of a bundle, whatever runs them."""

    spec: PlannerSpec

    @abstractmethod
    def run(self, graph: str, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Return the outputs of a graph by name."""

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """See :class:`jepakit.planning.Backend`."""
        self.spec.check_frames(frames, proprio)
        batch, count = frames.shape[:2]
        together = count if self.spec.whole_history else 1  # frames that a call sees of one environment
        inputs: dict[str, NDArray[Any]] = {"pixels": frames.reshape(-1, together, *frames.shape[2:])}
        if self.spec.proprio:
            assert proprio is not None
            inputs["proprio"] = proprio.reshape(-1, together, self.spec.proprio)
        latents = self.run(encoder_name(self.spec, together), inputs)["latents"]
        return latents.reshape(batch, count, *latents.shape[2:])

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Scores:
        """See :class:`jepakit.planning.Backend`; the distance is the model's own."""
        _check_score(self.spec, history, past_actions, candidates, goal)
        inputs = {"history": history, "candidates": _padded(self.spec, candidates), "goal": goal}
        if history.shape[1] > 1:
            inputs["past_actions"] = past_actions
        found = self.run(score_name(history.shape[1]), inputs)
        steps = slice(candidates.shape[2])
        readout = found["readout"][:, :, steps] if self.spec.readout else None
        return Scores(distance=found["distance"][:, :, steps], readout=readout)

    def propose(self, latents: Array, goal: Array, offset: Array) -> Array:
        """See :class:`jepakit.planning.ProposingBackend`."""
        found = self.run(CONTROLLER, {"latents": latents, "goal": goal, "offset": offset})
        return likeliest_first(found["plans"], found["weights"])


def in_pieces(graph: Graph, inputs: Tensors, most: Mapping[str, int], call: Call) -> dict[str, NDArray[Any]]:
    """Answer ``call(inputs)`` by calls with at most ``most[letter]`` rows along the axis of each shape letter."""
    tensors = {**graph.inputs, **graph.outputs}
    for letter, limit in most.items():
        axes = {name: tensor.shape.index(letter) for name, tensor in tensors.items() if letter in tensor.shape}
        count = next((inputs[name].shape[axis] for name, axis in axes.items() if name in inputs), 0)
        if count > limit:
            parts = []
            for start in range(0, count, limit):
                some = slice(start, start + limit)
                piece = {
                    name: array[(slice(None),) * axes[name] + (some,)] if name in axes else array
                    for name, array in inputs.items()
                }
                parts.append(in_pieces(graph, piece, most, call))
            return {name: np.concatenate([part[name] for part in parts], axes[name]) for name in graph.outputs}
    return call(inputs)


def _check_score(spec: PlannerSpec, history: Array, past_actions: Array, candidates: Array, goal: Array) -> None:
    """Raise ``ValueError`` unless the arguments of ``Backend.score`` have fitting shapes and finite values."""
    frames = history.shape[1] if history.ndim == 4 else 0
    if not 1 <= frames <= spec.history:
        raise ValueError(
            f"history: found shape {history.shape}, expected (B, H, {spec.tokens}, {spec.width}) with H from 1 to "
            f"{spec.history}"
        )
    batch = len(history)
    _check("history", history, (batch, frames, spec.tokens, spec.width))
    _check("past_actions", past_actions, (batch, frames - 1, spec.block_width))
    _check("goal", goal, (batch, spec.tokens, spec.width))
    if candidates.ndim != 4:
        raise ValueError(f"candidates: found shape {candidates.shape}, expected (B, S, K, {spec.block_width})")
    _check("candidates", candidates, (batch, *candidates.shape[1:3], spec.block_width))
    if spec.horizon is not None and not 1 <= candidates.shape[2] <= spec.horizon:
        raise ValueError(
            f"candidates: found a horizon of {candidates.shape[2]} blocks, expected 1 to {spec.horizon}, which the "
            "bundle was exported with; export with a larger --horizon or plan fewer blocks"
        )


def _padded(spec: PlannerSpec, candidates: Array) -> Array:
    """Return candidates (B, S, K, A) of exactly the exported horizon, continued with the mean action.

    What comes after a block does not change what is imagined up to it, so the first K steps of the answer are exact.
    """
    assert spec.horizon is not None
    missing = spec.horizon - candidates.shape[2]
    if not missing:
        return candidates
    rest = np.broadcast_to(spec.action_mean, (*candidates.shape[:2], missing, spec.block_width))
    return np.concatenate([candidates, rest], axis=2)


def _check(name: str, array: Array | None, shape: tuple[int, ...]) -> None:
    if array is None or array.dtype != np.float32 or array.shape != shape:
        found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{name}: found {found}, expected float32 of shape {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: found NaN or infinite values, expected finite ones")
