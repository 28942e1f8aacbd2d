"""The planner's backend on PyTorch.

Shapes: B environments, T frames, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon
in
blocks, A action-block width, h and w pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepakit.planning.planner import Frames, PlannerSpec
from jepakit.planning.solver import Array
from jepakit.zoo.base import WorldModel

if TYPE_CHECKING:
    from jepakit.zoo.module import WorldModelModule


class TorchBackend:
    """A world model in PyTorch as a :class:`jepakit.planning.Backend`: float32, inference mode, autocast off.

    The model is put into evaluation mode and, if ``device`` is given, moved there.

    Args:
        model: the world model, or the Lightning module around it, with its statistics set.
        device: where to run; by default where the model is.
        candidates_per_call: candidates rolled out at once; bounds the memory, does not change what is computed.
        environments_per_call: environments computed at once. With the default of 1 the shapes of every operation are
            independent of B, and so is every bit of the result; more is faster for small models on a GPU, but the
            order of summation, and with it the last digits, then depend on the batch.
        threads: PyTorch's threads while the model runs; by default as they are. Operations of a nano model are too
            small to share, and on a busy machine threads that wait for each other cost many times what they save.

    """

    def __init__(
        self,
        model: WorldModel | WorldModelModule,
        *,
        device: torch.device | str | None = None,
        candidates_per_call: int = 512,
        environments_per_call: int = 1,
        threads: int | None = None,
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
        self.spec = self._spec()

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        """See :class:`jepakit.planning.Backend`."""
        seen = {"pixels": frames} | ({} if proprio is None else {"proprio": proprio})
        with self._inference():
            parts = [
                self.model.encode({name: self._tensor(value[rows]) for name, value in seen.items()})
                for rows in self._groups(len(frames))
            ]
            return _array(torch.cat(parts))

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Array:
        """See :class:`jepakit.planning.Backend`; the distance is the model's own ``goal_cost``."""
        costs = np.empty(candidates.shape[:3], np.float32)
        with self._inference():
            for rows in self._groups(len(candidates)):
                context = self._tensor(history[rows]), self._tensor(past_actions[rows])
                target = self._tensor(goal[rows])
                for start in range(0, candidates.shape[1], self.candidates_per_call):
                    some = slice(start, start + self.candidates_per_call)
                    costs[rows, some] = _array(self._step_costs(*context, self._tensor(candidates[rows, some]), target))
        return costs

    def _step_costs(self, history: Tensor, past_actions: Tensor, candidates: Tensor, goal: Tensor) -> Tensor:
        """Distances ``(B, S, K)`` after every block."""
        predicted = self.model.rollout(history, past_actions, candidates)
        batch, count, horizon = predicted.shape[:3]
        # To the cost, a step of a candidate is just one more prediction: (B, S·K, N, D).
        return self.model.goal_cost(predicted.flatten(1, 2), goal).view(batch, count, horizon)

    def _groups(self, batch: int) -> Iterator[slice]:
        for start in range(0, batch, self.environments_per_call):
            yield slice(start, start + self.environments_per_call)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy, so that the memory's alignment, on which the order of summation may depend, is always torch's own.
        return torch.tensor(array, device=self.device)

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        if self.model.training:
            raise RuntimeError(
                "model: found training mode, expected evaluation mode; call model.eval() before planning"
            )
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            torch.set_num_threads(before)

    def _spec(self) -> PlannerSpec:
        config = self.model.config
        blank = np.zeros((1, 1, config.image_size, config.image_size, 3), np.uint8)
        proprio = getattr(config, "proprio_dim", 0)
        tokens, width = self.encode(blank, np.zeros((1, 1, proprio), np.float32) if proprio else None).shape[2:]
        return PlannerSpec(
            image_size=config.image_size,
            history=config.history,
            frame_skip=config.frame_skip,
            action_dim=config.action_dim,
            action_mean=_array(self.model.action_mean),
            action_std=_array(self.model.action_std),
            action_low=_array(self.model.action_low),
            action_high=_array(self.model.action_high),
            tokens=tokens,
            width=width,
            proprio=proprio,
            whole_history=self.model.follows_objects,
        )


def _array(tensor: Tensor) -> Array:
    return tensor.detach().to("cpu", torch.float32).numpy()
