"""Reading files that others made with libraries that were not written for damaged or hostile ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Turn whatever a library raises inside into a ``ValueError`` that names the file.

    Libraries answer damage with any exception, from ``KeyError`` to ``MemoryError``. Errors that name the file already
    are ours and pass, as does a missing module, which is no fault of the file.
    """
    try:
        yield
    except (ImportError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Rust, such as Lance's, is no Exception
        if isinstance(error, (ValueError, FileNotFoundError)) and str(where) in str(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ValueError(
            f"{where}: cannot be read ({type(error).__name__}: {reason}); restore or download it again"
        ) from error


def check_contained(file: Any, name: str, *, where: object) -> None:  # noqa: ANN401 (h5py has no types)
    """Raise ``ValueError`` for what HDF5 would read from other files than the open ``file``.

    Those are external links, on whatever way of soft links the ``name`` leads to them, external storage, and virtual
    columns.
    """
    import h5py

    outside = isinstance(file.get(name, getlink=True), h5py.ExternalLink)
    if not outside:
        found = file[name]
        outside = found.file.filename != file.filename
        if isinstance(found, h5py.Dataset):
            outside = outside or bool(found.external) or found.is_virtual
    if outside:
        raise ValueError(f"{where}: column {name!r} lies in another file; copy the data into this one (h5repack)")


def load_tensors(content: bytes, *, where: object) -> Any:  # noqa: ANN401 (what the file holds)
    """Read what ``torch.save`` wrote: tensors and plain containers, never code.

    Raises ``ValueError`` naming the file for anything else, without running what it asks for.
    """
    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can end in any of them
        reason = (str(error).splitlines() or [""])[0][:300]
        raise ValueError(f"{where}: not a complete file of plain tensors ({reason}); download it again") from error
