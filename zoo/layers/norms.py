"""Batch norms whose statistics in training are those of all processes that share a batch.

Torch's own need a GPU for that. In one process these are torch's; otherwise half precision is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepakit.zoo.ranks import average, ranks


class _WholeBatch(nn.modules.batchnorm._BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        """See ``torch.nn.BatchNorm1d`` and ``torch.nn.BatchNorm2d``."""
        count = ranks()[1]
        if count == 1 or not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        over = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        wide = torch.promote_types(x.dtype, torch.float32)
        mean = average(x.to(wide).mean(dim=over))
        centred = x.to(wide) - mean.view(shape)
        variance = average(centred.square().mean(dim=over))
        self._remember(mean.detach(), variance.detach(), samples=count * x.numel() // x.shape[1])
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normal = centred * scale.view(shape)
        return (normal + self.bias.view(shape) if self.affine else normal).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, *, samples: int) -> None:
        """Let the running statistics follow, as torch's do."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (samples / (samples - 1)), self.momentum)


class BatchNorm1d(_WholeBatch, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` over the batch of all ranks."""


class BatchNorm2d(_WholeBatch, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` over the batch of all ranks."""
