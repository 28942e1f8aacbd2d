"""Objectives in physical quantities that the backend reads off the imagined latents: where to be, where not to be.

They know what a linear readout knows: after every block, with the readout's error. Nothing is known of the way between
two blocks, so leave a margin.

Shapes: B environments, S candidates, K horizon in blocks, Q quantities read off the latents, q of them used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jepakit.planning.backend import Scores
from jepakit.planning.objective import Slope, Steps, check_steps, over_steps, steps_slope
from jepakit.planning.solver import Array


@dataclass(frozen=True, kw_only=True)
class ReachTargetConfig:
    """Settings of :class:`ReachTarget`.

    Args:
        names: quantities to bring to a value, of those the backend reads off.
        target: their values, in the quantities' units.
        weight: against the other objectives.

    """

    names: tuple[str, ...]
    target: tuple[float, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "target", self.target)


@dataclass(frozen=True, kw_only=True)
class KeepOutConfig:
    """Settings of :class:`KeepOut`: a disc (``center``, ``radius``) or a box (``low``, ``high``).

    Args:
        names: quantities that make up the position, of those the backend reads off.
        center: centre of the disc, in the quantities' units.
        radius: radius of the disc.
        low: lower corner of the box.
        high: its upper corner.
        weight: against the other objectives.

    """

    names: tuple[str, ...]
    center: tuple[float, ...] | None = None
    radius: float | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.center is not None and self.radius is not None and self.low is None and self.high is None:
            _check(self, "center", self.center)
            if not self.radius > 0:
                raise ValueError(f"KeepOutConfig.radius: found {self.radius}, expected more than 0")
        elif self.low is not None and self.high is not None and self.center is None and self.radius is None:
            _check(self, "low", self.low)
            _check(self, "high", self.high)
            if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
                raise ValueError(f"KeepOutConfig.low: found {self.low}, expected less than high = {self.high}")
        else:
            given = [name for name in ("center", "radius", "low", "high") if getattr(self, name) is not None]
            raise ValueError(f"KeepOutConfig: found {given}, expected either center and radius, or low and high")


class ReachTarget:
    """Squared distance of readout quantities from given values, in place of a goal picture.

    ``quantities`` are the names of the backend's readout (``PlannerSpec.readout``); ``steps`` as in ``GoalDistance``.
    """

    needs_goal = False

    def __init__(self, config: ReachTargetConfig, quantities: Sequence[str], *, steps: Steps = "last") -> None:
        check_steps("ReachTarget", steps)
        self.config = config
        self.steps = steps
        self._columns = _columns(config, quantities)
        self._target = np.array(config.target, np.float32)

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """See :class:`jepakit.planning.Objective`."""
        return over_steps(np.square(self._offset(scores)).sum(axis=-1), self.steps)

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """See :class:`jepakit.planning.Objective`."""
        offset = self._offset(scores)
        outer = steps_slope(np.square(offset).sum(axis=-1), self.steps)
        return _readout_slope(scores, self._columns, 2 * offset * outer[..., None])

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.Objective`."""
        return {"name": "reach_target", **asdict(self.config), "steps": self.steps}

    def _offset(self, scores: Scores) -> Array:
        offset: Array = _read(scores, self._columns) - self._target
        return offset


class KeepOut:
    """Being inside a disc or box costs, at every step: from 0 at its edge to 1 at its centre, summed over the steps.

    In a box, depth is measured along the axis on which the position is closest to leaving it.
    """

    needs_goal = False

    def __init__(self, config: KeepOutConfig, quantities: Sequence[str]) -> None:
        self.config = config
        self._columns = _columns(config, quantities)
        if config.center is not None and config.radius is not None:
            center, size = np.array(config.center), np.full(len(config.names), config.radius)
        else:
            low, high = np.array(config.low), np.array(config.high)
            center, size = (low + high) / 2, (high - low) / 2
        self._center, self._size = center.astype(np.float32), size.astype(np.float32)
        self._disc = config.radius is not None

    def __call__(self, scores: Scores, candidates: Array) -> Array:
        """See :class:`jepakit.planning.Objective`."""
        position = self._position(scores)
        costs: Array = np.maximum(1 - self._reach(position), 0).sum(axis=-1)
        return costs

    def slope(self, scores: Scores, candidates: Array) -> Slope:
        """See :class:`jepakit.planning.Objective`; flat outside and in the very centre."""
        position = self._position(scores)
        reach = self._reach(position)[..., None]
        if self._disc:
            outward = position / np.maximum(reach, np.finfo(np.float32).tiny)
        else:
            nearest = np.arange(position.shape[-1]) == np.abs(position).argmax(axis=-1, keepdims=True)
            outward = np.sign(position) * nearest
        return _readout_slope(scores, self._columns, -outward / self._size * (reach < 1))

    def describe(self) -> dict[str, Any]:
        """See :class:`jepakit.planning.Objective`."""
        return {"name": "keep_out", **{key: value for key, value in asdict(self.config).items() if value is not None}}

    def _position(self, scores: Scores) -> Array:
        """Return positions ``(B, S, K, q)`` such that the region is a ball of radius 1 around 0."""
        position: Array = (_read(scores, self._columns) - self._center) / self._size
        return position

    def _reach(self, position: Array) -> Array:
        """Return how far out of the centre a position is ``(B, S, K)``: 1 at the edge."""
        reach: Array = np.sqrt(np.square(position).sum(axis=-1)) if self._disc else np.abs(position).max(axis=-1)
        return reach


def _check(config: ReachTargetConfig | KeepOutConfig, field: str, values: tuple[float, ...]) -> None:
    owner = type(config).__name__
    if not config.names or len(values) != len(config.names) or not all(map(math.isfinite, values)):
        raise ValueError(
            f"{owner}.{field}: found {list(values)}, expected one finite number for each of the names {config.names}"
        )
    if not (math.isfinite(config.weight) and config.weight > 0):
        raise ValueError(f"{owner}.weight: found {config.weight}, expected more than 0")


def _columns(config: ReachTargetConfig | KeepOutConfig, quantities: Sequence[str]) -> list[int]:
    missing = [name for name in config.names if name not in quantities]
    if missing:
        raise ValueError(
            f"{type(config).__name__}.names: found {missing}, expected some of {list(quantities)}, which the backend "
            "reads off the latents; give it a readout of these quantities (jepakit.zoo.readout.fit_readout)"
        )
    return [list(quantities).index(name) for name in config.names]


def _read(scores: Scores, columns: Sequence[int]) -> Array:
    """Return the chosen quantities ``(B, S, K, q)``."""
    assert scores.readout is not None  # the backend's spec names its quantities
    return scores.readout[..., columns]


def _readout_slope(scores: Scores, columns: Sequence[int], values: Array) -> Slope:
    """Return the slope of which ``values`` ``(B, S, K, q)`` are the chosen columns."""
    assert scores.readout is not None
    slope = np.zeros_like(scores.readout)
    slope[..., columns] = values
    return Slope(readout=slope)
