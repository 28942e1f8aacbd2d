"""A linear readout of physical quantities from latents: what a planner may steer by in place of a goal picture.

Shapes: n frames, B environments, S candidates, N latent tokens per frame, D latent width, Q quantities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jepakit.zoo.files import load_strict

_NAMES = "quantities"


class Readout(nn.Module):
    """Q named quantities, in their own units, as a linear function of a frame's latents.

    Args:
        names: what the quantities are called.
        features: numbers of latents per frame, N · D.

    """

    weight: Tensor
    bias: Tensor

    def __init__(self, names: Sequence[str], features: int) -> None:
        super().__init__()
        if not names or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"Readout.names: found {list(names)}, expected at least one name, every one once")
        self.names = tuple(names)
        self.features = features
        self.register_buffer("weight", torch.zeros(len(names), features))
        self.register_buffer("bias", torch.zeros(len(names)))

    def forward(self, latents: Tensor) -> Tensor:
        """Quantities (..., Q) of latents (..., N, D)."""
        return nn.functional.linear(latents.flatten(-2), self.weight, self.bias)

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Squared distance (B, S) between the quantities of predicted (B, S, N, D) and goal (B, N, D) latents.

        In place of a model's own distance; the quantities should have one unit.
        """
        error: Tensor = self(predicted) - self(goal).unsqueeze(1)
        return error.square().sum(dim=-1)

    def r2(self, latents: ArrayLike, values: ArrayLike) -> dict[str, float]:
        """Return each quantity's coefficient of determination; of frames that the fit has not seen, to be honest."""
        z, y = _pairs(latents, values, self.names)
        with torch.no_grad():
            predicted = self(torch.from_numpy(z[:, None]).to(self.weight)).cpu().numpy()
        explained = 1 - np.square(y - predicted).sum(axis=0) / np.square(y - y.mean(axis=0)).sum(axis=0)
        return dict(zip(self.names, explained.tolist(), strict=True))

    def save(self, file: str | Path) -> None:
        """Write weights and names into one safetensors file."""
        save_file(
            {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()},
            Path(file),
            metadata={_NAMES: json.dumps(self.names)},
        )

    @staticmethod
    def load(file: str | Path) -> Readout:
        """Read what :meth:`save` wrote. Raises ``ValueError`` naming the file if it is something else."""
        try:
            with safe_open(Path(file), framework="pt") as content:
                names = json.loads((content.metadata() or {}).get(_NAMES, "[]"))
                tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (not a mapping)
            readout = Readout(names, tensors["weight"].shape[-1])
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{file}: not a readout ({error}); save it again with Readout.save") from error
        load_strict(readout, tensors, source=Path(file))
        return readout.eval()


def fit_readout(latents: ArrayLike, values: ArrayLike, names: Sequence[str], *, ridge: float = 1e-3) -> Readout:
    """Fit a readout by ridge regression in closed form.

    ``latents`` (n, N, D) are those of real frames, ``values`` (n, Q) the quantities ``names`` in the same frames.
    Latents and quantities are standardised; ``ridge`` is the penalty on the weights relative to the mean squared
    error. Angles have to be given as sine and cosine. Latents whose tokens have no fixed order from frame to frame
    (object slots) are no basis for a linear readout.

    Raises ``ValueError`` for shapes that do not fit, numbers that are not finite, and quantities that never change.
    """
    z, y = _pairs(latents, values, names)
    if not ridge > 0:
        raise ValueError(f"ridge: found {ridge}, expected more than 0")
    z_mean, z_std, y_mean, y_std = z.mean(axis=0), z.std(axis=0), y.mean(axis=0), y.std(axis=0)
    z_std = np.where(z_std > 1e-6 * np.abs(z).max(axis=0), z_std, np.inf)  # numbers that never change weigh nothing
    x, t = (z - z_mean) / z_std, (y - y_mean) / y_std
    penalty = ridge * len(x)
    if x.shape[1] <= len(x):
        solved = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ t)
    else:  # the same in its dual form: fewer frames than latents
        solved = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), t)
    weight = (solved * y_std / z_std[:, None]).T
    readout = Readout(names, x.shape[1])
    readout.weight.copy_(torch.from_numpy(weight))
    readout.bias.copy_(torch.from_numpy(y_mean - weight @ z_mean))
    return readout.eval()


def _pairs(latents: ArrayLike, values: ArrayLike, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return flattened latents (n, N·D) and values (n, Q) in float64."""
    z, y = np.asarray(latents, np.float64), np.asarray(values, np.float64)
    if z.ndim != 3 or y.shape != (len(z), len(names)):
        raise ValueError(
            f"latents and values: found shapes {z.shape} and {y.shape}, expected (n, N, D) and (n, {len(names)}), "
            "a column for every name"
        )
    for name, array in (("latents", z), ("values", y)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: found numbers that are not finite, expected finite ones")
    constant = [name for name, column in zip(names, y.T, strict=True) if len(np.unique(column)) < 2]
    if constant:
        raise ValueError(f"values: found {constant} constant in all {len(y)} frames, expected different values")
    return z.reshape(len(z), -1), y
