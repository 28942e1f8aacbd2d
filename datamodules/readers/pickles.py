"""Pickles of plain numbers, read without running what a pickle may ask for."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.location import Location
from jepakit.untrusted import load_tensors

# everything that a damaged or foreign pickle can end in
_UNREADABLE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError
)  # fmt: skip


def load_integers(location: Location) -> NDArray[np.int64]:
    """A pickled list, tuple, NumPy array or tensor of integers as ``(n,)`` int64.

    Raises ``ValueError`` naming whatever else the pickle asks for; nothing of it is run.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(location.read_bytes())).load()
        numbers = np.asarray(found)
    except _UNREADABLE as error:
        raise ValueError(f"{location}: not a pickle of plain integers ({error}); save them as a list of int") from error
    if numbers.ndim != 1 or not (np.issubdtype(numbers.dtype, np.integer) or _whole(numbers)):
        raise ValueError(
            f"{location}: found {numbers.dtype} of shape {numbers.shape}, expected a flat list of integers"
        )
    return numbers.astype(np.int64)


class _PlainUnpickler(pickle.Unpickler):
    """Knows the functions that rebuild arrays, scalars and tensors, each replaced by one that can do no more."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 (pickle's own signature)
        asked = f"{module.replace('numpy.core', 'numpy._core')}.{name}"  # the name before NumPy 2
        if asked in _ALLOWED:
            return _ALLOWED[asked]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")


def _scalar(dtype: np.dtype[Any], data: bytes) -> np.generic:
    return np.frombuffer(data, dtype=dtype)[0]  # type: ignore[no-any-return]


def _from_buffer(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def _storage(data: bytes) -> Any:  # noqa: ANN401 (a torch storage)
    return load_tensors(data, where="a storage")


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Any:  # noqa: ANN401
    import torch

    return torch.as_strided(torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage), size, stride, offset)


_ALLOWED: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy._core.multiarray._reconstruct": lambda kind, shape, dtype: np.ndarray(shape, dtype),
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
}


def _whole(numbers: NDArray[Any]) -> bool:
    return numbers.dtype.kind == "f" and bool((numbers == np.floor(numbers)).all())
