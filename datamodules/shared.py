"""Batches from loader processes in shared memory that is used again.

A ``DataLoader`` makes a new shared file for every tensor of every batch; mapping and clearing its pages costs more than
reading the frames. Here each loader process has a few slots that stay mapped everywhere. It claims one, fills it and
sends its number; the slot is free again once nothing refers to the batch's memory, so batches may be kept as long as
wanted: when all slots are taken, batches travel the usual way.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 64
_FREE, _HELD = 0, -1  # otherwise the round in which the slot was claimed


@dataclass(frozen=True)
class Field:
    """One tensor of a batch: NumPy dtype name and shape without the batch dimension."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes per window."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class FilledSlot:
    """What a loader process sends instead of tensors."""

    slot: int
    windows: int


class BatchSlots:
    """``per_worker`` slots for each of ``workers`` processes, for batches of up to ``batch_size`` windows.

    One set of processes must not share its slots with another.
    """

    def __init__(self, fields: Mapping[str, Field], *, batch_size: int, workers: int, per_worker: int) -> None:
        self._fields = dict(fields)
        self._per_worker = per_worker
        sizes = [-(-field.bytes * batch_size // _ALIGNMENT) * _ALIGNMENT for field in fields.values()]
        self._begins = dict(zip(fields, np.cumsum([0, *sizes]).tolist(), strict=False))
        self._memory = _shared((workers * per_worker, sum(sizes)), torch.uint8)
        self._state = _shared((workers * per_worker,), torch.int64)
        self._round = _shared((1,), torch.int64)

    def begin_round(self) -> None:
        """Give up the batches that were claimed before and never opened: an epoch was left in the middle."""
        self._round += 1

    def claim(self, worker: int) -> int | None:
        """A free slot of a loader process, or None."""
        first = worker * self._per_worker
        state, current = self._state.numpy(), int(self._round)
        for slot in range(first, first + self._per_worker):
            if state[slot] not in (_HELD, current):
                state[slot] = current
                return slot
        return None

    def release(self, slot: int) -> None:
        """Make a slot free."""
        self._state[slot] = _FREE

    def arrays(self, slot: int, windows: int) -> dict[str, NDArray[np.generic]]:
        """The arrays ``(windows, …)`` of a slot, to be filled."""
        return {name: value.numpy() for name, value in self._views(self._memory[slot], windows).items()}

    def open(self, filled: FilledSlot) -> dict[str, Tensor]:
        """The batch in a filled slot, which is free again once no tensor or view of it is left."""
        self._state[filled.slot] = _HELD
        owner = self._memory.numpy()[filled.slot]
        weakref.finalize(owner, self.release, filled.slot).atexit = False
        return self._views(torch.from_numpy(owner), filled.windows)  # its storage, hence every view, refers to owner

    def _views(self, memory: Tensor, windows: int) -> dict[str, Tensor]:
        views = {}
        for name, field in self._fields.items():
            data = memory[self._begins[name] : self._begins[name] + windows * field.bytes]
            views[name] = data.view(getattr(torch, field.dtype)).view(windows, *field.shape)
        return views


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in shared memory; its pages exist once they are touched."""
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize, device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]
