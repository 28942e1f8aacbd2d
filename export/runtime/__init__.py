"""Engines that run a world model for the planner; each is imported by its own module, because each needs its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jepakit.export.bundle import Bundle
    from jepakit.planning.backend import Backend


def open_backend(bundle: Bundle | str | Path, *, engine: Literal["onnx", "tensorrt"] = "onnx") -> Backend:
    """Run a bundle, or the one in a folder, with an engine in its default settings; the engines' own classes have more.

    Raises ``ModuleNotFoundError`` where the engine is not installed, and what ``Bundle.open`` raises.
    """
    if engine == "onnx":
        from jepakit.export.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(bundle)
    if engine == "tensorrt":
        from jepakit.export.runtime.tensorrt_backend import TensorRTBackend

        return TensorRTBackend(bundle)
    raise ValueError(f"engine: found {engine!r}, expected 'onnx' or 'tensorrt'")
