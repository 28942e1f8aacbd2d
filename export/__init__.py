"""Taking a world model out of PyTorch, and the engines that run it for the planner. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepakit.lazy import lazy

if TYPE_CHECKING:
    from jepakit.export.bundle import Bundle as Bundle
    from jepakit.export.exporter import export_bundle as export_bundle
    from jepakit.export.verify import Queries as Queries
    from jepakit.export.verify import VerificationError as VerificationError

__getattr__, __dir__ = lazy(
    __name__,
    {
        "bundle": ("Bundle",),
        "exporter": ("export_bundle",),
        "verify": ("Queries", "VerificationError"),
    },
)
__all__ = __dir__()
