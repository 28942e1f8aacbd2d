"""Which slots are hidden in training, and how much of the history is shown: random, but a function of seed and step.

Shape letters: B windows, N slots.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jepakit.zoo.ranks import ranks, share


def draw_hidden(
    windows: int, slots: int, *, count: tuple[int, int], per: Literal["sample", "batch"], generator: torch.Generator
) -> Tensor:
    """Draw the slots to hide, true where hidden: (B, N), or (1, N) for the whole batch.

    Their number is uniform between the two of ``count``, both included; any set of that many is as likely.
    """
    draws = windows * ranks()[1] if per == "sample" else 1
    numbers = torch.randint(count[0], count[1] + 1, (draws, 1), generator=generator)
    places = torch.rand(draws, slots, generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = places < numbers
    return share(hidden) if per == "sample" else hidden


def draw_history(history: int, *, short_share: float, generator: torch.Generator) -> int:
    """Draw how many frames of a history are shown: fewer than all of them in ``short_share`` of the draws."""
    if history == 1 or torch.rand((), generator=generator).item() >= short_share:
        return history
    return int(torch.randint(1, history, (), generator=generator).item())
