"""How straight the paths of the latents are.

Shape letters: B windows, T frames, N latent tokens per frame, D latent width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from jepakit.callbacks.collapse import LatentMonitor


class StraightnessMonitor(LatentMonitor):
    """Logs ``straightness/cosine``, see ``straightness``; nothing for windows of fewer than three frames."""

    name: ClassVar[str] = "straightness"

    def measure(self, latents: Tensor, step: int) -> dict[str, float]:
        """See ``straightness``."""
        return {"cosine": straightness(latents)} if latents.shape[1] >= 3 else {}


@torch.no_grad()
def straightness(latents: Tensor) -> float:
    """Mean cosine between z_{t+1} − z_t and z_{t+2} − z_{t+1} of latents (B, T, N, D), every frame one vector N · D.

    1 for straight paths, −1 for steps forth and back (the angle is the curvature of Hénaff et al., *Perceptual
    straightening of natural videos*, Nature Neuroscience 2019). Pairs with a step of length zero do not count; nan
    where there are no others. Raises ``ValueError`` for fewer than three frames.
    """
    if latents.ndim != 4 or latents.shape[1] < 3:
        raise ValueError(
            f"latents: found shape {tuple(latents.shape)}, expected (windows, frames, tokens, width) with at least 3 "
            "frames"
        )
    steps = latents.flatten(2).float().diff(dim=1)
    steps = steps / steps.abs().amax(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    lengths = steps.norm(dim=2)
    moved = (lengths[:, :-1] > 0) & (lengths[:, 1:] > 0)
    cosines = (steps[:, :-1] * steps[:, 1:]).sum(dim=2) / (lengths[:, :-1] * lengths[:, 1:])
    return float(cosines[moved].mean())
