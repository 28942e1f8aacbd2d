"""Matching of slots: the order of one set of slots that lies closest to another's.

Shape letters: ... any leading axes, M samples (these axes as one), N slots, D slot width, U subsets of one size.
"""

from __future__ import annotations

from itertools import combinations, permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MOST_ENUMERATED = 5


class SlotMatcher(nn.Module):
    """Finds the permutation π with the least Σ_i ‖slots_π(i) − reference_i‖², exactly, for a fixed number of slots.

    Up to five slots all N! permutations are tried; above, the assignment is solved by dynamic programming over the
    subsets of the slots (2^N · N steps instead of N!). Both run batched on the device of the slots, without control
    flow that depends on values, so that they can be exported. Of equal permutations any may be returned.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.enumerate = slots <= _MOST_ENUMERATED
        if self.enumerate:
            orders = torch.tensor(list(permutations(range(slots))))
            pairs = F.one_hot(orders, slots).flatten(1).T.float()
            self.register_buffer("orders", orders, persistent=False)
            self.register_buffer("pairs", pairs, persistent=False)
            return
        before: list[tuple[int, ...]] = [()]
        for size in range(1, slots + 1):
            subsets = list(combinations(range(slots), size))
            place = {subset: index for index, subset in enumerate(before)}
            rest = [[place[subset[:drop] + subset[drop + 1 :]] for drop in range(size)] for subset in subsets]
            self.register_buffer(f"members_{size}", torch.tensor(subsets), persistent=False)
            self.register_buffer(f"rest_{size}", torch.tensor(rest), persistent=False)
            before = subsets

    def forward(self, slots: Tensor, reference: Tensor) -> Tensor:
        """Return π (..., N) of slots and reference (..., N, D): slot π(i) belongs to ``reference`` i.

        Leading axes broadcast.
        """
        # Σ‖s_π(i)‖² and Σ‖r_i‖² are the same for every π: the closest order is the one of largest Σ r_i · s_π(i).
        alike = reference @ slots.transpose(-1, -2)
        leading = alike.shape[:-2]
        alike = alike.reshape(-1, self.slots, self.slots)
        found = self._try_all(alike) if self.enumerate else self._assign(alike)
        return found.reshape(*leading, self.slots)

    def match(self, slots: Tensor, reference: Tensor) -> Tensor:
        """``slots`` (..., N, D) in the order that lies closest to ``reference``, whose leading axes may be 1."""
        return slots.gather(-2, self(slots, reference).unsqueeze(-1).expand_as(slots))

    def _try_all(self, alike: Tensor) -> Tensor:
        totals = alike.flatten(1) @ self.get_buffer("pairs").to(alike.dtype)
        return self.get_buffer("orders")[totals.argmax(dim=1)]

    def _assign(self, alike: Tensor) -> Tensor:
        """Find the best total of giving the first k references the slots of each subset of k, for k = 1 … N; then back.

        The samples M are the last axis, so that looking up subsets copies whole rows.
        """
        columns = alike.permute(1, 2, 0)
        totals = torch.zeros_like(columns[0, :1])
        choices = []
        for size in range(1, self.slots + 1):
            members, rest = self.get_buffer(f"members_{size}"), self.get_buffer(f"rest_{size}")
            totals, choice = (totals[rest] + columns[size - 1][members]).max(dim=1)  # of (U, size, M)
            choices.append(choice)
        subset = torch.zeros_like(choices[-1][0])  # the only one that has all slots
        found = []
        for size in range(self.slots, 0, -1):
            members, rest = self.get_buffer(f"members_{size}"), self.get_buffer(f"rest_{size}")
            chosen = choices[size - 1].gather(0, subset.unsqueeze(0)).squeeze(0)
            found.append(members[subset, chosen])
            subset = rest[subset, chosen]
        return torch.stack(found[::-1], dim=-1)
