"""SIGReg: the sketched isotropic-Gaussian regulariser (LeJEPA, arXiv 2511.08544).

Shape letters: B batch, T frames, D latent width, P directions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jepakit.zoo.ranks import ranks


def sigreg(z: Tensor, directions: Tensor, *, knots: int = 17, t_max: float = 3.0, across_ranks: bool = False) -> Tensor:
    """How far the batch's distribution is from a standard normal, per time step: a scalar.

    ``z`` is (B, T, D); ``directions`` (D, P) has columns of length 1. Every slice x = z·direction is compared with
    the normal through its characteristic function (Epps–Pulley), on ``knots`` points t from 0 to ``t_max``::

        B · Σ_t w_t [ (mean_b cos(t x_b) − exp(−t²/2))² + (mean_b sin(t x_b))² ]

    with w_t the trapezoid rule (doubled for the negative half) times exp(−t²/2), averaged over directions and time
    steps. Gaussian latents give 1.052 whatever B is, collapsed ones (z ≡ 0) 0.402 · B.

    The statistic is not additive over ranks: with ``across_ranks`` in an initialised process group, means and B are
    those of the global batch (all ranks must call, with the same directions), every rank returns the global value,
    and gradients are scaled so that averaging them over ranks, as DDP does, gives those of the global batch.

    Computed in float32 whatever the autocast, in O(B · T · P) memory independent of ``knots``: the gradient is
    accumulated in the forward pass. It can be differentiated once.
    """
    if z.ndim != 3 or directions.ndim != 2 or z.shape[-1] != directions.shape[0]:
        raise ValueError(
            f"sigreg: found z {tuple(z.shape)} and directions {tuple(directions.shape)}, expected (B, T, D) and (D, P)"
        )
    if knots < 2:
        raise ValueError(f"sigreg: found {knots} knots, expected at least 2")
    value: Tensor = _SIGReg.apply(z, directions, knots, t_max, across_ranks)  # type: ignore[no-untyped-call]
    return value


def random_directions(width: int, count: int, *, seed: int, step: int, device: torch.device) -> Tensor:
    """Draw directions (width, count) of length 1, the same on every rank for the same ``seed`` and ``step``."""
    mixed = (1_000_003 * seed + step) % 2**32  # the CPU's generator reads 32 bits only
    generator = torch.Generator(device).manual_seed(mixed)
    directions = torch.randn(width, count, generator=generator, device=device)
    return F.normalize(directions, dim=0)


class _SIGReg(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (torch gives it no type)
        z: Tensor,
        directions: Tensor,
        knots: int,
        t_max: float,
        across_ranks: bool,
    ) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            directions = directions.float()
            x = torch.einsum("btd,dp->tbp", z.float(), directions)
            value, slope = _epps_pulley(x, knots, t_max, across_ranks, gradient=ctx.needs_input_grad[0])
            if slope is not None:
                ctx.save_for_backward(torch.einsum("tbp,dp->btd", slope, directions).to(z.dtype))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None, None, None


def _epps_pulley(
    x: Tensor, knots: int, t_max: float, across_ranks: bool, *, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the statistic of slices x (T, B, P) and its derivative with respect to x.

    cos and sin of t·x come from one knot to the next by rotating (cos, sin) by the angle dt·x: two transcendental
    functions in all instead of two per knot. In float32 the error grows by about 1e-7 per knot.
    """
    count = ranks()[1] if across_ranks else 1
    batch = torch.full((), float(x.shape[1]), device=x.device)
    if count > 1:
        dist.all_reduce(batch)
    dt = t_max / (knots - 1)
    rotation = torch.polar(torch.ones_like(x), x * dt)
    phase = rotation.clone()  # exp(i t x), from t = dt on: the knot t = 0 adds nothing
    value = x.new_zeros(())
    slope = torch.zeros_like(rotation) if gradient else None
    for knot in range(1, knots):
        t = knot * dt
        target = math.exp(-0.5 * t * t)
        weight = (dt if knot == knots - 1 else 2 * dt) * target
        mean = torch.view_as_real(phase.sum(dim=1, keepdim=True))
        if count > 1:
            dist.all_reduce(mean)
        error = torch.view_as_complex(mean / batch) - target
        value += weight * error.abs().square().sum()
        if slope is not None:
            # B · d/dx_b |error|² = 2 t Re(i · conj(error) · exp(i t x_b))
            slope.addcmul_(phase, 1j * error.conj(), value=2 * t * weight)
        if knot < knots - 1:
            phase *= rotation
    return value * batch / x[:, 0].numel(), None if slope is None else slope.real * (count / x[:, 0].numel())
