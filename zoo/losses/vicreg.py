"""PLDM's regularisers: variance and covariance terms over the batch and over time (arXiv 2502.14819, after VICReg).

Shape letters: B batch, T frames, D latent width. Every function takes latents z (B, T, D) and returns a scalar in
float32, whatever the autocast. z̄ is z less its mean over the batch, per time step; variances and covariances are the
unbiased ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-4  # under the root, so that its slope stays finite where a dimension is constant


def variance(z: Tensor) -> Tensor:
    """Mean over D and T of max(0, 1 − √(Var_B[z] + 1e-4)): every dimension shall vary over the batch.

    A batch of a single window counts as one without variance.
    """
    return _hinge(_centred(z), dim=0)


def time_variance(z: Tensor) -> Tensor:
    """Mean over D and B of max(0, 1 − √(Var_T[z̄] + 1e-4)): every dimension shall vary over a window."""
    return _hinge(_centred(z), dim=1)


def covariance(z: Tensor) -> Tensor:
    """Mean over T of the squared off-diagonals of z̄ᵀz̄ / (B−1), divided by D² − D: dimensions shall not be redundant."""
    return _off_diagonals(_centred(z).transpose(0, 1))


def time_covariance(z: Tensor) -> Tensor:
    """Mean over B of the squared off-diagonals of z̄ᵀz̄ / (T−1), divided by D² − D.

    z̄ is centred over the batch here as well, not over time: so the authors have it.
    """
    return _off_diagonals(_centred(z))


def time_similarity(z: Tensor) -> Tensor:
    """Mean of (z_{t+1} − z_t)², gradients to both: neighbouring frames shall lie close together."""
    return F.mse_loss(z[:, 1:].float(), z[:, :-1].float())


def _centred(z: Tensor) -> Tensor:
    z = z.float()
    return z - z.mean(dim=0)


def _hinge(x: Tensor, *, dim: int) -> Tensor:
    variances = x.var(dim=dim, correction=min(1, x.shape[dim] - 1))
    return F.relu(1.0 - (variances + _EPSILON).sqrt()).mean()


def _off_diagonals(x: Tensor) -> Tensor:
    """Mean square, over M and the off-diagonal places, of the second moments of x (M, samples, D)."""
    samples, width = x.shape[1:]
    with torch.autocast(x.device.type, enabled=False):
        moments = x.mT @ x / max(1, samples - 1)
    diagonal = torch.eye(width, dtype=torch.bool, device=x.device)
    squares = moments.square().masked_fill(diagonal, 0.0)
    return squares.sum(dim=(1, 2)).mean() / max(1, width * (width - 1))
