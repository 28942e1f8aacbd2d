"""What everything trained on episodes shares: the shape of an action block, and the data's statistics as buffers.

Shape letters: A action-block width (F · C), F frame skip, C raw action width, P width of proprioception.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepakit.zoo.config import check_whole_numbers
from jepakit.zoo.ranks import average


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How actions come: blocks of ``frame_skip`` raw actions, ``action_dim`` numbers each."""

    frame_skip: int = 5
    action_dim: int = 2

    def __post_init__(self) -> None:
        check_whole_numbers(self)

    @property
    def block_width(self) -> int:
        """A: the width of an action block."""
        return self.frame_skip * self.action_dim

    @property
    def pretrain_steps(self) -> int:
        """Optimiser steps that train the encoder alone before the predictor is trained on it, frozen; 0 for none."""
        return 0


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a generator on the CPU, so that draws are the same on every device, fresh for every step."""
    return torch.Generator().manual_seed((1_000_003 * seed + step) % 2**32)


def neutral_statistics(config: DataConfig) -> dict[str, Tensor]:
    """Return the buffers of a model that has seen no data: actions pass unchanged and have no bounds.

    A config with ``proprio_dim`` above 0 has statistics of proprioception, too.
    """
    proprio = getattr(config, "proprio_dim", 0)
    standard = {"proprio_mean": torch.zeros(proprio), "proprio_std": torch.ones(proprio)}
    return {
        "action_mean": torch.zeros(config.block_width),
        "action_std": torch.ones(config.block_width),
        "action_low": torch.full((config.action_dim,), -torch.inf),
        "action_high": torch.full((config.action_dim,), torch.inf),
        **(standard if proprio else {}),
    }


class Statistics(Protocol):
    """Statistics of the training episodes in raw action units, as a DataModule fits them (float32 arrays)."""

    @property
    def action_mean(self) -> NDArray[np.float32]:
        """(A,) mean of every column of an action block."""
        ...

    @property
    def action_std(self) -> NDArray[np.float32]:
        """(A,) standard deviation of every column of an action block."""
        ...

    @property
    def action_low(self) -> NDArray[np.float32]:
        """(C,) smallest action."""
        ...

    @property
    def action_high(self) -> NDArray[np.float32]:
        """(C,) largest action."""
        ...

    @property
    def proprio_mean(self) -> NDArray[np.float32] | None:
        """(P,) mean of proprioception, where the data have it."""
        ...

    @property
    def proprio_std(self) -> NDArray[np.float32] | None:
        """(P,) its standard deviation."""
        ...


@dataclasses.dataclass(frozen=True)
class Losses:
    """What ``losses`` returns: the scalar to minimise, its named terms, and tensors for callbacks."""

    total: Tensor
    terms: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Trainable(nn.Module):
    """Base of what ``TrainingModule`` trains.

    Actions are raw environment units everywhere; standardisation happens inside, with the buffers ``action_mean``,
    ``action_std`` (A,) and the bounds ``action_low``, ``action_high`` (C,), which travel with the weights. Until
    ``set_statistics`` is called, actions pass unchanged and are unbounded.
    """

    name: ClassVar[str]  # the registry's name of this family
    config: DataConfig

    action_mean: Tensor
    action_std: Tensor
    action_low: Tensor
    action_high: Tensor
    proprio_mean: Tensor  # these two only where the config has a proprio_dim above 0
    proprio_std: Tensor

    def __init__(self, config: DataConfig) -> None:
        super().__init__()
        self.config = config
        for field, value in neutral_statistics(config).items():
            self.register_buffer(field, value)

    @abstractmethod
    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Training losses of a batch; random parts depend on ``config`` and ``step`` only.

        With accumulated gradients ``step`` counts batches, so that those of one optimiser step draw differently.
        """

    @property
    def encoder_alone(self) -> bool:
        """Whether the model is in the first of two phases, which trains its encoder and leaves its predictor alone."""
        return False

    def step_done(self, step: int) -> None:
        """Called after each optimiser step with the number of steps done: moving averages, change of phase."""

    def mean_count(self, count: Tensor) -> Tensor:
        """A batch's count that a loss divides by; in training its mean over the ranks, as DDP averages."""
        return average(count.float()) if self.training else count

    def set_statistics(self, statistics: Statistics) -> None:
        """Copy the training data's statistics into the buffers.

        Raises ``ValueError`` for a wrong width, numbers that are not finite (bounds may be infinite), a standard
        deviation that is not positive, or bounds in the wrong order; the buffers are then unchanged.
        """
        new: dict[str, Tensor] = {}
        for field in neutral_statistics(self.config):
            buffer: Tensor = getattr(self, field)
            given = getattr(statistics, field)
            if given is None:
                raise ValueError(f"statistics.{field}: the data have none, the model's proprio_dim is {len(buffer)}")
            value = torch.as_tensor(np.asarray(given, dtype=np.float32))
            if value.shape != buffer.shape:
                raise ValueError(
                    f"statistics.{field}: found shape {tuple(value.shape)}, expected {tuple(buffer.shape)} from "
                    "frame_skip, action_dim and proprio_dim of the model's config; set these as the data has them"
                )
            bad = value.isnan() if field in ("action_low", "action_high") else ~value.isfinite()
            if field.endswith("_std"):
                bad = bad | (value <= 0)
            if bad.any():
                columns = bad.nonzero().flatten().tolist()
                raise ValueError(
                    f"statistics.{field}: found {value[bad].tolist()} in columns {columns}, expected finite"
                    f"{' and positive' if field.endswith('_std') else ''} numbers; drop constant or broken columns"
                )
            new[field] = value
        if (new["action_low"] > new["action_high"]).any():
            raise ValueError("statistics: action_low exceeds action_high; expected low <= high in every column")
        for field, value in new.items():
            getattr(self, field).copy_(value)

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """Raw action blocks (..., A) to zero mean and unit variance per column."""
        return (actions - self.action_mean) / self.action_std
