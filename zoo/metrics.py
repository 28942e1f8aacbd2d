"""How well found masks match true objects, over whole clips, so that two slots that swap objects lose points.

Shape letters: B clips, T frames, K true labels (0 is the background), N found labels, h, w picture size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def contingency(true: Tensor, found: Tensor) -> Tensor:
    """Pixels (B, K, N) that carry true label k and found label n, of label maps (B, T, h, w) of whole numbers."""
    labels = int(true.max()) + 1, int(found.max()) + 1
    pairs = true.flatten(1).long() * labels[1] + found.flatten(1).long()
    counts = torch.stack([clip.bincount(minlength=labels[0] * labels[1]) for clip in pairs])
    return counts.reshape(-1, *labels).double()


def foreground_ari(true: Tensor, found: Tensor) -> Tensor:
    """Adjusted Rand index (B,) of two labellings (B, T, h, w) of the pixels whose true label is not 0.

    1 for equal partitions, 0 on average for random ones (Hubert & Arabie 1985). One object in one slot scores 1; a
    clip without foreground is NaN.
    """
    table = contingency(true, found)[:, 1:]
    pixels = table.sum(dim=(1, 2))
    together = _pairs(table).sum(dim=(1, 2))
    in_true, in_found = _pairs(table.sum(dim=2)).sum(dim=1), _pairs(table.sum(dim=1)).sum(dim=1)
    expected = in_true * in_found / _pairs(pixels).clamp(min=1)
    most = (in_true + in_found) / 2
    score = torch.where(most == expected, 1.0, (together - expected) / (most - expected))
    return score.where(pixels > 0, torch.nan)


def mean_best_overlap(true: Tensor, found: Tensor) -> Tensor:
    """Mean over true objects of the best intersection over union with a found mask, (B,), of labels (B, T, h, w).

    The background is no object (arXiv 1503.00848); a clip without objects is NaN.
    """
    table = contingency(true, found)
    union = table.sum(dim=2, keepdim=True) + table.sum(dim=1, keepdim=True) - table
    best = (table / union.clamp(min=1)).amax(dim=2)[:, 1:]
    present = table[:, 1:].sum(dim=2) > 0
    return best.sum(dim=1) / present.sum(dim=1)


def _pairs(counts: Tensor) -> Tensor:
    return counts * (counts - 1) / 2
