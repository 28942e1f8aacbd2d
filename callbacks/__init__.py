"""Lightning callbacks: they read a module's named outputs and never touch its gradients."""

from __future__ import annotations

from jepakit.callbacks.latent_map import LatentMap
from jepakit.callbacks.run_estimate import RunEstimate

__all__ = ["LatentMap", "RunEstimate"]
