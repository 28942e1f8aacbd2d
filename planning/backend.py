"""What a planner asks of a world model, whatever engine runs it.

Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon
in blocks, F frame skip, C raw action width, A = F·C action-block width, P proprio width, Q physical quantities read off
the latents, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from jepakit.planning.solver import Array

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PlannerSpec:
    """What a planner must know about a world model. Actions are in raw units.

    Args:
        image_size: side of the square frames the encoder takes, pixels.
        history: frames the model was trained to look back on, H.
        frame_skip: raw actions per block, F.
        action_dim: raw action width, C.
        action_mean: mean of the training episodes' action blocks, ``(A,)``.
        action_std: their standard deviation, ``(A,)``.
        action_low: the environment's lower action bound, ``(C,)``; infinite where there is none.
        action_high: its upper bound, ``(C,)``.
        tokens: latent tokens per frame, N.
        width: latent width, D.
        proprio: numbers of proprioception the encoder takes beside each frame, P; 0 for pixels only.
        whole_history: the encoder follows objects from frame to frame, so the frames of a history must be encoded in
            one call; otherwise each is encoded once, when it is new.
        readout: names of the Q physical quantities that the backend reads off imagined latents; often none.
        horizon: most blocks the engine can imagine, K; ``None`` for any number.
        proposals: plans that the controller proposes at once, M; 0 where there is none.
        proposed_blocks: their length in blocks.
        max_offset: farthest goal that the controller was trained for, in environment steps.

    """

    image_size: int
    history: int
    frame_skip: int
    action_dim: int
    action_mean: Array
    action_std: Array
    action_low: Array
    action_high: Array
    tokens: int
    width: int
    proprio: int = 0
    whole_history: bool = False
    readout: tuple[str, ...] = ()
    horizon: int | None = None
    proposals: int = 0
    proposed_blocks: int = 0
    max_offset: int = 0

    def __post_init__(self) -> None:
        if len(set(self.readout)) < len(self.readout):
            raise ValueError(f"PlannerSpec.readout: found {list(self.readout)}, expected every name once")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"PlannerSpec.horizon: found {self.horizon}, expected at least 1, or None")
        for name in ("image_size", "history", "frame_skip", "action_dim", "tokens", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"PlannerSpec.{name}: found {getattr(self, name)}, expected at least 1")
        controller = self.proposals, self.proposed_blocks, self.max_offset
        if any(controller) and min(controller) < 1:
            raise ValueError(
                f"PlannerSpec.proposals, proposed_blocks, max_offset: found {controller}, expected all of a "
                "controller's, or zeros"
            )
        widths = {"action_mean": self.block_width, "action_std": self.block_width}
        widths |= {"action_low": self.action_dim, "action_high": self.action_dim}
        for name, width in widths.items():
            array = getattr(self, name)
            bad = np.isnan(array) if name in ("action_low", "action_high") else ~np.isfinite(array)
            if array.shape != (width,) or array.dtype != np.float32 or bad.any():
                raise ValueError(
                    f"PlannerSpec.{name}: found {array.dtype} of shape {array.shape} with values {array.tolist()}, "
                    f"expected {width} float32 numbers, finite unless they are bounds"
                )
        if not (self.action_std > 0).all():
            raise ValueError(f"PlannerSpec.action_std: found {self.action_std.tolist()}, expected positive numbers")
        if not (self.action_low <= self.action_high).all():
            raise ValueError(
                f"PlannerSpec.action_low: found {self.action_low.tolist()}, "
                f"expected at most action_high = {self.action_high.tolist()}"
            )

    @property
    def block_width(self) -> int:
        """Return the action-block width A = F·C."""
        return self.frame_skip * self.action_dim

    def check_frames(self, frames: Frames, proprio: Array | None) -> None:
        """Raise ``ValueError`` unless the encoder takes ``frames (B, T, h, w, 3)`` and ``proprio (B, T, P)``."""
        side = self.image_size
        if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[2:] != (side, side, 3):
            raise ValueError(
                f"frames: found {frames.dtype} of shape {frames.shape}, expected uint8 of shape "
                f"(B, T, {side}, {side}, 3): render or resize them to the model's image size"
            )
        if self.whole_history and not 1 <= frames.shape[1] <= self.history:
            raise ValueError(
                f"frames: found {frames.shape[1]} at once, expected 1 to {self.history} (the trained history)"
            )
        if self.proprio:
            expected, found = (*frames.shape[:2], self.proprio), "nothing"
            if proprio is not None:
                found = f"{proprio.dtype} of shape {proprio.shape}"
            if proprio is None or proprio.shape != expected or proprio.dtype != np.float32:
                raise ValueError(
                    f"proprio: found {found}, expected float32 of shape {expected}: this model takes the robot's "
                    "proprioception beside every frame, of the goal too"
                )
            if not np.isfinite(proprio).all():
                raise ValueError("proprio: found NaN or infinite values, expected finite ones")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model imagines of candidates, after every block.

    ``distance (B, S, K)`` is its own distance to the goal, ``readout (B, S, K, Q)`` the physical quantities
    ``PlannerSpec.readout`` in their units, where the backend reads any off the latents.
    """

    distance: Array
    readout: Array | None = None


class Backend(Protocol):
    """A world model behind an engine (PyTorch, ONNX Runtime, TensorRT). Arrays in and out are NumPy."""

    @property
    def spec(self) -> PlannerSpec:
        """Say what the planner must know about the model."""
        ...

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """Return latents ``(B, T, N, D)`` of frames ``(B, T, h, w, 3)`` and, if wanted, ``proprio`` ``(B, T, P)``."""
        ...

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Scores:
        """Imagine the candidates and judge them after every block.

        Takes latents ``history`` ``(B, H, N, D)`` of 1 to ``spec.history`` frames, the raw blocks ``past_actions``
        ``(B, H−1, A)`` executed between them, raw ``candidates`` ``(B, S, K, A)`` and the ``goal``'s latents
        ``(B, N, D)``. The candidates may be a buffer that is overwritten after the call.
        """
        ...


@runtime_checkable
class ProposingBackend(Backend, Protocol):
    """A backend with a controller, if ``spec.proposals`` is not 0."""

    def propose(self, latents: Array, goal: Array, offset: Array) -> Array:
        """Return raw plans ``(B, M, K, A)``, the likeliest first, that lead in ``offset`` ``(B,)`` steps to a goal.

        From ``latents`` to ``goal``, both ``(B, N, D)``; ``offset`` are environment steps, float32.
        """
        ...


@runtime_checkable
class ImaginingBackend(Backend, Protocol):
    """A backend that also says what it imagines, not only what it is worth."""

    def imagine(self, history: Array, past_actions: Array, candidates: Array) -> Array:
        """Return imagined latents ``(B, S, K, N, D)``; arguments as in :meth:`Backend.score`."""
        ...


def likeliest_first(plans: Array, weights: Array) -> Array:
    """Return ``plans`` ``(B, M, K, A)`` in the order of their falling ``weights`` ``(B, M)``."""
    order = np.argsort(-weights, axis=1, kind="stable")
    ordered: Array = np.take_along_axis(plans, order[:, :, None, None], axis=1)
    return ordered


#: Derivatives of costs with respect to distance ``(B, S, K)`` and readout ``(B, S, K, Q)``, either of them possibly
#: absent, to those with respect to the raw candidates ``(B, S, K, A)``; to be called once.
PullBack = Callable[["Array | None", "Array | None"], Array]


@runtime_checkable
class DifferentiableBackend(Backend, Protocol):
    """A backend through which solvers can follow gradients."""

    def differentiate(
        self, history: Array, past_actions: Array, candidates: Array, goal: Array
    ) -> tuple[Scores, PullBack]:
        """Score as :meth:`Backend.score` does, and return the way back to the candidates."""
        ...
