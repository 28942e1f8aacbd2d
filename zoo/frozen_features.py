"""What a frozen network makes of frames, described so that it can be computed once and kept.

Shape letters: M frames, N tokens per frame, E token width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FrozenFeatures:
    """``compute`` gives features (M, N, E) of observations whose ``columns`` are (1, M, ...), each frame by itself.

    ``identity`` is everything that the features depend on beside the frames, in plain values; ``network`` does the
    computing, ``name`` begins the name of the folder where the features are kept.
    """

    name: str
    network: nn.Module
    shape: tuple[int, int]
    identity: Mapping[str, object]
    compute: Callable[[Mapping[str, Tensor]], Tensor]
    columns: tuple[str, ...] = ("pixels",)


class ReadsFrozenFeatures(ABC):
    """A Lightning module that can be trained on features in place of frames; see the callback ``FeatureCache``."""

    @abstractmethod
    def frozen_features(self, data: Any) -> FrozenFeatures:  # noqa: ANN401 (a data module)
        """Make the frozen network ready for ``data``, and say what it computes."""
