"""The planner's backend on PyTorch.

Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon
in blocks, A action-block width, Q quantities of a readout, h and w pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepakit.planning.backend import Frames, PlannerSpec, PullBack, Scores, likeliest_first
from jepakit.planning.solver import Array
from jepakit.zoo.base import WorldModel
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.distance.model import DistanceModel
from jepakit.zoo.readout import Readout

if TYPE_CHECKING:
    from jepakit.zoo.module import WorldModelModule


#: Modules with a ``goal_cost`` like ``WorldModel``'s.
GoalCost = DistanceModel | Readout


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Candidates rolled out together: their environments and numbers, their actions, and what came of them."""

    place: tuple[slice, slice]
    actions: Tensor
    distance: Tensor
    readout: Tensor | None


class TorchBackend:
    """A world model in PyTorch as a :class:`jepakit.planning.Backend`: float32, autocast off.

    Runs in inference mode except where gradients are asked for. The model is put into evaluation mode and, if
    ``device`` is given, moved there.

    Args:
        model: the world model, or the Lightning module around it, with its statistics set.
        readout: physical quantities to read off imagined latents, for objectives that need them.
        controller: what proposes plans, trained on this very model.
        distance: what judges how far imagined latents are from the goal, in place of the model's own ``goal_cost``: a
            learned distance, or a readout whose quantities are compared.
        device: where to run; by default where the model is.
        candidates_per_call: candidates rolled out at once; bounds the memory, does not change what is computed.
        environments_per_call: environments computed at once. With the default of 1 the shapes of every operation are
            independent of B, and so is every bit of the result; more is faster for small models on a GPU, but the
            order of summation, and with it the last digits, then depend on the batch.
        threads: PyTorch's threads while the model runs; by default as they are. Operations of a nano model are too
            small to share, and on a busy machine threads that wait for each other cost many times what they save.
        compiled: compile the imagination with ``torch.compile``; on a GPU it is then replayed as a CUDA graph. The
            first call of every shape takes from seconds to minutes, and sums may be taken in another order.

    """

    def __init__(
        self,
        model: WorldModel | WorldModelModule,
        readout: Readout | None = None,
        *,
        controller: ControllerModel | None = None,
        distance: GoalCost | None = None,
        device: torch.device | str | None = None,
        candidates_per_call: int = 512,
        environments_per_call: int = 1,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        for name, value in (
            ("candidates_per_call", candidates_per_call),
            ("environments_per_call", environments_per_call),
        ):
            if value < 1:
                raise ValueError(f"TorchBackend.{name}: found {value}, expected at least 1")
        if not isinstance(model, WorldModel):
            model = model.model
        self.device = torch.device(device) if device is not None else model.action_mean.device
        self.model = model.to(self.device).eval()
        half = sorted({str(p.dtype) for p in model.parameters() if p.dtype != torch.float32})
        if half:
            raise ValueError(f"model parameters: found {', '.join(half)}, expected torch.float32; call model.float()")
        self.candidates_per_call = candidates_per_call
        self.environments_per_call = environments_per_call
        self.threads = threads
        self.readout = None if readout is None else readout.to(self.device).eval()
        self.controller = None if controller is None else controller.to(self.device).eval()
        if controller is not None:
            controller.check_world_model(self.model)
        self.distance = None if distance is None else distance.to(self.device).eval()
        if isinstance(distance, DistanceModel):
            distance.check_world_model(self.model)
        self.spec = self._spec()
        self._fast_step = self._step
        if compiled:
            self._fast_step = torch.compile(self._step, mode="reduce-overhead" if self.device.type == "cuda" else None)

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """See :class:`jepakit.planning.Backend`."""
        seen = {"pixels": frames} | ({} if proprio is None else {"proprio": proprio})
        with self._running():
            parts = [
                self.model.encode({name: self._tensor(value[rows]) for name, value in seen.items()})
                for rows in self._groups(len(frames))
            ]
            return _array(torch.cat(parts))

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Scores:
        """See :class:`jepakit.planning.Backend`; the distance is ``goal_cost``, the model's or the learned one."""
        with self._running():
            return self._scores(candidates, self._imagine(history, past_actions, candidates, goal))

    def imagine(self, history: Array, past_actions: Array, candidates: Array) -> Array:
        """See :class:`jepakit.planning.ImaginingBackend`."""
        with self._running():
            parts = [
                self.model.rollout(*(self._tensor(part[rows]) for part in (history, past_actions, candidates)))
                for rows in self._groups(len(candidates))
            ]
            return _array(torch.cat(parts))

    def propose(self, latents: Array, goal: Array, offset: Array) -> Array:
        """See :class:`jepakit.planning.ProposingBackend`."""
        assert self.controller is not None
        parts = []
        with self._running():
            for rows in self._groups(len(latents)):
                asked = (self._tensor(part[rows]) for part in (latents, goal, offset))
                plans, weights = self.controller.propose(*asked)
                parts.append(likeliest_first(_array(plans), _array(weights)))
        return np.concatenate(parts)

    def differentiate(
        self, history: Array, past_actions: Array, candidates: Array, goal: Array
    ) -> tuple[Scores, PullBack]:
        """See :class:`jepakit.planning.DifferentiableBackend`; the memory grows with B and S."""
        with self._running(gradients=True):
            pieces = list(self._imagine(history, past_actions, candidates, goal, gradients=True))
            scores = self._scores(candidates, pieces)

        def pull_back(by_distance: Array | None, by_readout: Array | None) -> Array:
            gradient = np.empty_like(candidates)
            with self._running(gradients=True):
                for piece in pieces:
                    given = [(piece.distance, by_distance), (piece.readout, by_readout)]
                    used = [(out, self._tensor(slope[piece.place])) for out, slope in given if slope is not None]
                    outputs, slopes = zip(*used, strict=True)
                    gradient[piece.place] = _array(torch.autograd.grad(outputs, piece.actions, slopes)[0])
            return gradient

        return scores, pull_back

    def _imagine(
        self, history: Array, past_actions: Array, candidates: Array, goal: Array, *, gradients: bool = False
    ) -> Iterator[_Piece]:
        """Roll candidates out, as many environments and candidates at once as allowed."""
        for rows in self._groups(len(candidates)):
            context = self._tensor(history[rows]), self._tensor(past_actions[rows])
            target = self._tensor(goal[rows])
            for start in range(0, candidates.shape[1], self.candidates_per_call):
                place = rows, slice(start, start + self.candidates_per_call)
                actions = self._tensor(candidates[place]).requires_grad_(gradients)
                step = self._step if gradients else self._fast_step
                distance, readout = step(*context, actions, target)
                yield _Piece(place=place, actions=actions, distance=distance, readout=readout)

    def _step(
        self, history: Tensor, past_actions: Tensor, candidates: Tensor, goal: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Imagine candidates; distances (B, S, K) and what is read off the latents (B, S, K, Q)."""
        predicted = self.model.rollout(history, past_actions, candidates)
        # To the cost, a step of a candidate is just one more prediction: (B, S·K, N, D).
        judge = self.model if self.distance is None else self.distance
        distance = judge.goal_cost(predicted.flatten(1, 2), goal).view(predicted.shape[:3])
        return distance, None if self.readout is None else self.readout(predicted)

    def _scores(self, candidates: Array, pieces: Iterable[_Piece]) -> Scores:
        distance = np.empty(candidates.shape[:3], np.float32)
        readout = np.empty((*candidates.shape[:3], len(self.spec.readout)), np.float32)
        for piece in pieces:
            distance[piece.place] = _array(piece.distance)
            if piece.readout is not None:
                readout[piece.place] = _array(piece.readout)
        return Scores(distance=distance, readout=None if self.readout is None else readout)

    def _groups(self, batch: int) -> Iterator[slice]:
        for start in range(0, batch, self.environments_per_call):
            yield slice(start, start + self.environments_per_call)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy, so that the memory's alignment, on which the order of summation may depend, is always torch's own.
        return torch.tensor(array, device=self.device)

    @contextlib.contextmanager
    def _running(self, *, gradients: bool = False) -> Iterator[None]:
        if self.model.training:
            raise RuntimeError(
                "model: found training mode, expected evaluation mode; call model.eval() before planning"
            )
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with (
                torch.inference_mode(not gradients),
                torch.set_grad_enabled(gradients),
                torch.autocast(self.device.type, enabled=False),
            ):
                yield
        finally:
            torch.set_num_threads(before)

    def _spec(self) -> PlannerSpec:
        config = self.model.config
        blank = np.zeros((1, 1, config.image_size, config.image_size, 3), np.uint8)
        proprio = getattr(config, "proprio_dim", 0)
        tokens, width = self.encode(blank, np.zeros((1, 1, proprio), np.float32) if proprio else None).shape[2:]
        names = () if self.readout is None else self.readout.names
        for readout in (self.readout, self.distance):
            if isinstance(readout, Readout) and readout.features != tokens * width:
                raise ValueError(
                    f"readout: found one for {readout.features} numbers per frame, expected {tokens} tokens · {width} "
                    "= the model's; fit it on this model's latents"
                )
        # Copies: sending a model to another process moves its tensors; arrays on their memory would hold freed bytes.
        mean, std, low, high = (
            _array(tensor).copy()
            for tensor in (
                self.model.action_mean,
                self.model.action_std,
                self.model.action_low,
                self.model.action_high,
            )
        )
        return PlannerSpec(
            image_size=config.image_size,
            history=config.history,
            frame_skip=config.frame_skip,
            action_dim=config.action_dim,
            action_mean=mean,
            action_std=std,
            action_low=low,
            action_high=high,
            tokens=tokens,
            width=width,
            proprio=proprio,
            whole_history=self.model.follows_objects,
            readout=names,
            **self._controller_spec(),
        )

    def _controller_spec(self) -> dict[str, int]:
        if self.controller is None:
            return {}
        config = self.controller.config
        blocks = config.steps // config.frame_skip
        return {"proposals": config.modes, "proposed_blocks": blocks, "max_offset": config.max_offset}


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float32).numpy()
