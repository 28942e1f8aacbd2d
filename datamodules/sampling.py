"""The order of windows: shuffled, weighted, shared among processes, and resumed in the middle of an epoch.

An order depends on (seed, epoch) only; process ``rank`` of ``world_size`` takes every ``world_size``-th window of it.
So the windows of the k-th step are the same for 1 process with batches of 128 as for 2 with batches of 64.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from jepakit.datamodules.shared import BatchSlots, FilledSlot
from jepakit.datamodules.windows import Batch, WindowDataset


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Which windows an epoch visits, in which order.

    ``sizes`` are the windows per source, numbered one source after the other. Without ``seed`` they come in order.
    With ``weights``, one per source, an epoch has as many windows as there are, and each source's part of them is its
    weight's share; a source is gone through completely before any of its windows comes again, across epochs.
    """

    sizes: tuple[int, ...]
    seed: int | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (
            len(self.weights) != len(self.sizes) or not all(0 < weight < np.inf for weight in self.weights)
        ):
            raise ValueError(f"weights: found {self.weights}, expected {len(self.sizes)} positive numbers")

    def __len__(self) -> int:
        return sum(self.sizes)

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """The windows of one epoch."""
        if self.seed is None:
            return np.arange(len(self))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        if self.weights is None:
            return order
        begins = np.cumsum([0, *self.sizes])
        chosen = [begins[k] + self._drawn(k, epoch) for k in range(len(self.sizes))]
        return np.asarray(np.concatenate(chosen)[order])

    def counts(self) -> NDArray[np.int64]:
        """Windows per source and epoch under ``weights``, by largest remainder."""
        assert self.weights is not None
        exact = len(self) * np.array(self.weights) / sum(self.weights)
        counts = np.floor(exact).astype(np.int64)
        counts[np.argsort(counts - exact, kind="stable")[: len(self) - counts.sum()]] += 1
        return counts

    def _drawn(self, source: int, epoch: int) -> NDArray[np.int64]:
        """The windows of one source that an epoch visits: the next piece of an endless row of permutations."""
        assert self.seed is not None
        size, count = self.sizes[source], int(self.counts()[source])
        if not count:
            return np.zeros(0, np.int64)
        first, last = epoch * count // size, ((epoch + 1) * count - 1) // size
        rounds = [np.random.default_rng([self.seed, source, n]).permutation(size) for n in range(first, last + 1)]
        begin = epoch * count - first * size
        return np.asarray(np.concatenate(rounds)[begin : begin + count])


class WindowSampler(DistributedSampler[int]):
    """One process's share of an ``EpochOrder``; a ``DistributedSampler``, so that Lightning leaves it alone.

    ``even`` shares have the same size and no window twice, so up to ``world_size − 1`` windows of an epoch are left
    out; otherwise every window is in exactly one share. The next iteration leaves out its first ``skip`` windows. The
    order is that of epoch ``epoch + shift``: see ``WindowLoader``.
    """

    def __init__(self, order: EpochOrder, *, rank: int = 0, world_size: int = 1, even: bool = True) -> None:
        super().__init__(range(len(order)), num_replicas=world_size, rank=rank)  # type: ignore[arg-type]
        self.order = order
        self.even = even
        self.skip = 0
        self.shift = 0

    def __len__(self) -> int:
        return (len(self.order) + (0 if self.even else self.num_replicas - 1 - self.rank)) // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        share = self.order.indices(self.epoch + self.shift)[self.rank :: self.num_replicas][: len(self)]
        skip, self.skip = self.skip, 0
        return map(int, share[skip:])


def leave_signals_to_the_main_process(worker: int) -> None:
    """Have a loader process ignore Ctrl-C and SIGTERM, which terminals and schedulers send to every process of a job.

    A training that stops gracefully needs its loaders until it has. They end when it does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class WindowLoader(DataLoader[Batch]):
    """A ``DataLoader`` whose place in the epoch is saved with a checkpoint and found again.

    Windows have numbers and an epoch's order is known beforehand, so the place is two numbers, whatever the worker
    processes have read ahead; no snapshot of workers is needed. Lightning calls ``state_dict`` and ``load_state_dict``.

    Lightning's count of epochs, which it tells the sampler, is one ahead in a run that was resumed from a checkpoint of
    an epoch's end (2.6). So what follows a finished epoch is the next one, whatever its number is said to be. ``limit``
    is the number of batches after which Lightning ends an epoch, if it does before they are used up.
    """

    limit: int | None = None

    _position = (0, 0)  # epoch, batches handed out in it
    _resumed: dict[str, Any] | None = None  # the state to continue from
    _slots: BatchSlots | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: Lightning asks for the iterator before it sets the epoch.
        sampler = self.sampler
        if not isinstance(sampler, WindowSampler):  # Lightning's own, for overfit_batches and predictions
            yield from self._batches()
            return
        done = 0
        if self._resumed is not None:
            state, self._resumed = self._resumed, None
            same = sampler.epoch == state["counted"] and self._within(state)
            sampler.shift = state["epoch"] + (0 if same else 1) - sampler.epoch
            done = state["batches"] if same else 0
        assert self.batch_size is not None
        sampler.skip = done * self.batch_size
        self._position = (sampler.epoch + sampler.shift, done)
        for batch in self._batches():
            self._position = (self._position[0], self._position[1] + 1)
            yield batch

    def _batches(self) -> Iterator[Batch]:
        slots = self._prepare_slots()
        for batch in super().__iter__():
            yield slots.open(batch) if slots is not None and isinstance(batch, FilledSlot) else batch

    def _prepare_slots(self) -> BatchSlots | None:
        """Shared memory for the loader processes that are about to start, or that have it already."""
        if not self.num_workers or self.batch_size is None:  # Lightning's own batches, for predictions
            return None
        assert isinstance(self.dataset, WindowDataset)
        assert self.prefetch_factor is not None
        if self._slots is None or not self.persistent_workers:
            # Batches read ahead, twice because an epoch that is left early may leave some behind; the one in use, and
            # the one before it, which callers often still hold. Slots that are never used take no memory.
            count = 2 * self.prefetch_factor + 2
            self._slots = BatchSlots(
                self.dataset.fields, batch_size=self.batch_size, workers=self.num_workers, per_worker=count
            )
        self._slots.begin_round()
        self.dataset.slots = self._slots
        return self._slots

    def state_dict(self) -> dict[str, Any]:
        """Epoch, as what it was counted, batches handed out of all, and what must be the same for the same batches."""
        if self._resumed is not None:
            return self._resumed
        epoch, batches = self._position
        shift = self.sampler.shift if isinstance(self.sampler, WindowSampler) else 0
        place = {"epoch": epoch, "counted": epoch - shift, "batches": batches, "total": self._total}
        return {**place, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches of ``state``; raises ``ValueError`` when its remaining batches cannot be had."""
        if not isinstance(self.sampler, WindowSampler):
            return
        # older checkpoints do not have all of it
        state = {"counted": state["epoch"], "total": self._total, **state}
        found = {name: state.get(name, value) for name, value in self._identity().items()}
        if state["batches"] and self._within(state) and found != self._identity():
            raise ValueError(
                f"the checkpoint was saved in the middle of an epoch with {found}, now it is {self._identity()}; "
                "resume with the same, or from a checkpoint at the end of an epoch"
            )
        self.sampler.set_epoch(state["counted"])
        self._resumed = state

    @property
    def _total(self) -> int:
        """Batches of an epoch."""
        return len(self) if self.limit is None else min(len(self), self.limit)

    def _within(self, state: Mapping[str, Any]) -> bool:
        """Whether the epoch of ``state`` was not over."""
        return bool(state["batches"] < state["total"])

    def _identity(self) -> dict[str, Any]:
        sampler = self.sampler
        if not isinstance(sampler, WindowSampler):
            return {}
        assert isinstance(self.dataset, WindowDataset)
        return {
            "data": self.dataset.source.fingerprint,
            "windows": len(self.dataset),
            "seed": sampler.order.seed,
            "weights": None if sampler.order.weights is None else list(sampler.order.weights),
            "batch_size": self.batch_size,
            "world_size": sampler.num_replicas,
        }
