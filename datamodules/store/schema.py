"""What a source of episodes is: typed columns of rows, grouped into episodes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Codec = Literal["raw", "png", "jpeg"]
Array = NDArray[Any]
# Names of dtypes that files may ask for: NumPy would also parse lists of them, records and Python objects.
NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")


@dataclass(frozen=True, kw_only=True)
class Column:
    """Type of one column: NumPy dtype name, shape of a row, and how frames are stored."""

    dtype: str
    shape: tuple[int, ...]
    codec: Codec = "raw"

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise ValueError(f"codec of a column: found {self.codec!r}, expected one of {', '.join(get_args(Codec))}")
        picture = self.shape[2:] == (3,) if self.codec == "jpeg" else self.shape[2:] in ((3,), ())
        if self.codec != "raw" and not (self.dtype == "uint8" and len(self.shape) > 1 and picture):
            raise ValueError(
                f"codec {self.codec!r} of a column: found {self.dtype} rows of {self.shape}, expected uint8 frames of "
                "(h, w, 3), or of (h, w) for png"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class EpisodeSource(Protocol):
    """What windows are cut from: columns of rows, grouped into episodes."""

    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def fingerprint(self) -> str:
        """What tells its content from that of others."""
        ...

    @property
    def path(self) -> Path | str:
        """Where it is: a path of this machine or a URL; errors name it."""
        ...

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns by name."""
        ...

    def read(self, column: str, rows: NDArray[np.int64], out: Array | None = None) -> Array:
        """Rows ``(n,)`` of a column as ``(n, …)``, into ``out`` when given."""
        ...
