"""Slots made of true object states, so that predictors can be studied without the question of how slots are found.

Shape letters: B batch, T frames, N slots, D slot width, K columns of a state, O objects of one kind, E features of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OracleEncoder(nn.Module):
    """True states, split by object, through a fixed random projection.

    ``objects`` lists the columns of ``state`` that describe each object. Objects of as many columns are of one kind and
    share a projection, so that only what they are tells them apart. Columns in ``angles`` (radians) enter as sine and
    cosine, the others standardised over the objects of a kind (``fit``). An object whose columns are all 0 is absent:
    its slot, the empty slot, is zeros; other slots have a constant part that keeps them away from it.
    """

    order: Tensor

    def __init__(
        self, objects: tuple[tuple[int, ...], ...], *, angles: tuple[int, ...], slot_dim: int, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kinds = nn.ModuleList()
        order: list[int] = []
        for width in sorted({len(columns) for columns in objects}):
            members = [index for index, columns in enumerate(objects) if len(columns) == width]
            columns = torch.tensor([objects[index] for index in members])
            turning = torch.tensor([column in angles for column in objects[members[0]]])
            self.kinds.append(_Kind(columns, turning, slot_dim, generator))
            order += members
        self.register_buffer("order", torch.tensor(order).argsort(), persistent=False)

    def forward(self, state: Tensor) -> Tensor:
        """States (B, T, K) to slots (B, T, N, D)."""
        return torch.cat([kind(state) for kind in self.kinds], dim=-2).index_select(-2, self.order)

    def fit(self, state: Tensor) -> None:
        """Adopt mean and standard deviation of the objects in states (rows, K)."""
        for kind in self.kinds:
            assert isinstance(kind, _Kind)
            kind.fit(state)


class _Kind(nn.Module):
    """Objects with the same number of columns."""

    columns: Tensor
    plain: Tensor
    turning: Tensor
    mean: Tensor
    std: Tensor
    projection: Tensor

    def __init__(self, columns: Tensor, turning: Tensor, slot_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        plain, turning = (~turning).nonzero().flatten(), turning.nonzero().flatten()
        for name, index in (("columns", columns), ("plain", plain), ("turning", turning)):
            self.register_buffer(name, index, persistent=False)
        self.register_buffer("mean", torch.zeros(len(plain)))
        self.register_buffer("std", torch.ones(len(plain)))
        features = len(plain) + 2 * len(turning) + 1
        self.register_buffer("projection", torch.randn(features, slot_dim, generator=generator) * features**-0.5)

    def forward(self, state: Tensor) -> Tensor:
        values = state[..., self.columns]  # (..., O, columns)
        plain = (values[..., self.plain] - self.mean) / self.std
        angles = values[..., self.turning]
        features = torch.cat([plain, angles.sin(), angles.cos(), torch.ones_like(values[..., :1])], dim=-1)
        return (features @ self.projection) * (values != 0).any(dim=-1, keepdim=True)

    def fit(self, state: Tensor) -> None:
        values = state[:, self.columns].flatten(0, 1)
        values = values[(values != 0).any(dim=-1)][:, self.plain].double()
        if len(values) == 0:
            raise ValueError("state: found no object in the training episodes, expected some columns that are not 0")
        std = values.std(dim=0, correction=0)
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, 1.0))  # a constant column says nothing
