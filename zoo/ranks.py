"""One batch over several processes: what makes a model learn the same from it as one process would.

DDP averages gradients over the ranks. Means over windows, of which every rank has as many, come out right by that
alone; what else depends on the whole batch goes through here: batch norms, variances, counts, random draws. Windows are
dealt out in turn (``jepakit.datamodules.sampling``): window w of the batch is row w // R on rank w % R. All ranks must
call, so only training does; in one process everything here does nothing.

Shape letters: B windows of a rank, R ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def ranks() -> tuple[int, int]:
    """Return this process's rank, and how many share a batch."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def leave() -> None:
    """Leave the process group, if there is one, once what was sent is done.

    Lightning does so with NCCL only. gloo's threads hand tensors back to Python; one that still does while Python exits
    aborts the process ("terminate called without an active exception").
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def average(x: Tensor) -> Tensor:
    """Mean of ``x`` over the ranks; gradients are those of the mean loss of all ranks."""
    if ranks()[1] == 1:
        return x
    mean: Tensor = _Average.apply(x)  # type: ignore[no-untyped-call]
    return mean


def gather(x: Tensor) -> Tensor:
    """Rows (R · B, …) of all ranks, for a loss that every rank computes of all of them.

    Gradients reach this rank's rows, scaled so that averaging them over ranks gives those of the loss.
    """
    if ranks()[1] == 1:
        return x
    rows: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return rows


def whole(x: Tensor) -> Tensor:
    """Return all of a tensor of which, under FSDP, every rank holds a part."""
    full: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return full


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state dict with every tensor ``whole``."""
    return {name: whole(value) for name, value in model.state_dict().items()}


def share(drawn: Tensor) -> Tensor:
    """Return this rank's rows of what was drawn for the whole batch."""
    rank, count = ranks()
    return drawn[rank::count]


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 (torch gives it no type)
        return _mean_over_ranks(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        return _mean_over_ranks(grad)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        rank, count = ranks()
        return grad.chunk(count)[rank] * count


def _mean_over_ranks(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()
