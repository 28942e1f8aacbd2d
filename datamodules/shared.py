"""Batches from loader processes in shared memory that is used again.

A ``DataLoader`` makes a new shared file for every tensor of every batch; mapping and clearing its pages costs more than
reading the frames. Here each loader process has a few slots that stay mapped everywhere. A slot is claimed by the process
that fills it and free again when nothing refers to the batch's memory any more, so batches may be kept as long as wanted:
when all slots are taken, batches travel the usual way.
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
    """``per_worker`` slots for each of ``workers`` processes, for batches of up to ``batch_size`` windows."""

    def __init__(self, fields: Mapping[str, Field], *, batch_size: int, workers: int, per_worker: int) -> None:
        self._fields = dict(fields)
        self._per_worker = per_worker
        sizes = [-(-field.bytes * batch_size // _ALIGNMENT) * _ALIGNMENT for field in fields.values()]
        self._begins = dict(zip(fields, np.cumsum([0, *sizes]).tolist(), strict=False))
        self._memory = _shared(workers * per_worker, sum(sizes))
        self._taken = _shared(workers * per_worker, 1)

    def claim(self, worker: int) -> int | None:
        """A free slot of a loader process, or None."""
        mine = slice(worker * self._per_worker, (worker + 1) * self._per_worker)
        taken = self._taken.numpy()[mine, 0]
        free = int(taken.argmin())
        if taken[free]:
            return None
        taken[free] = 1
        return mine.start + free

    def arrays(self, slot: int, windows: int) -> dict[str, NDArray[np.generic]]:
        """The arrays ``(windows, …)`` of a slot, to be filled."""
        return {name: value.numpy() for name, value in self._views(self._memory[slot], windows).items()}

    def release(self, slot: int) -> None:
        """Make a slot free."""
        self._taken[slot] = 0

    def open(self, filled: FilledSlot) -> dict[str, Tensor]:
        """The batch in a filled slot, which is free again once no tensor or view of it is left."""
        owner = self._memory.numpy()[filled.slot]
        weakref.finalize(owner, self.release, filled.slot).atexit = False
        return self._views(torch.from_numpy(owner), filled.windows)  # its storage, hence every view, refers to owner

    def _views(self, memory: Tensor, windows: int) -> dict[str, Tensor]:
        views = {}
        for name, field in self._fields.items():
            data = memory[self._begins[name] : self._begins[name] + windows * field.bytes]
            views[name] = data.view(getattr(torch, field.dtype)).view(windows, *field.shape)
        return views


def _shared(rows: int, columns: int) -> Tensor:
    """Zeros (rows, columns) uint8 in shared memory; pages exist once they are touched."""
    storage = torch.UntypedStorage._new_shared(rows * columns, device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (rows, columns))  # type: ignore[call-overload, no-any-return]
