"""The public Lance layout: one row per step, images as JPEG bytes, other columns fixed-size float lists."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from jepakit.datamodules.readers.base import Reader, Rows, column_dtype, decode_image, episode_runs
from jepakit.datamodules.readers.location import Location, PerProcess
from jepakit.datamodules.store import Array, Column
from jepakit.untrusted import naming

_EPISODE = ("episode_idx", "ep_idx")


class LanceReader(Reader):
    """Episodes in one Lance table, local or where Lance's own object stores reach (``s3://``, ``gs://``, ``hf://`` …).

    An episode is a run of ``episode_idx``. Raises ``ValueError`` naming the column that is missing or does not fit, and
    ``BadEpisode`` for an image that cannot be decoded or has another size.
    """

    kind = "lance"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._table = PerProcess(partial(_open, location))
        table = self._table.get()
        schema = {field.name: field.type for field in table.schema}
        index = next((name for name in _EPISODE if name in schema), None)
        if index is None:
            raise ValueError(f"{self.path}: column {_EPISODE[0]!r} not found; it has {', '.join(sorted(schema))}")
        numbers = self._whole_column(index)
        lengths, offsets = episode_runs(self.path, numbers)
        self._images: set[str] = set()
        columns = {name: self._column(name, kind) for name, kind in sorted(schema.items()) if name not in _EPISODE}
        self._describe(columns, lengths, offsets, stamp=str(len(numbers)))

    def _column(self, name: str, kind: Any) -> Column:  # noqa: ANN401 (pyarrow has no types)
        import pyarrow as pa

        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            self._images.add(name)
            return Column(dtype="uint8", shape=self._image_shape(name), codec="jpeg")
        width: tuple[int, ...] = ()
        if pa.types.is_fixed_size_list(kind):
            width, kind = (kind.list_size,), kind.value_type
        try:
            dtype = np.dtype(kind.to_pandas_dtype())
        except (NotImplementedError, TypeError):
            dtype = np.dtype(object)
        return Column(dtype=column_dtype(self.path, name, dtype), shape=width)

    def _image_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the first image that can be decoded."""
        problem: ValueError | None = None
        first = self._take(name, np.arange(min(10, self._table.get().count_rows())))
        for row, value in enumerate(first):
            try:
                return decode_image(value.as_py() or b"").shape
            except ValueError as error:
                problem = problem or ValueError(f"{self.path}: column {name!r}: row {row}: {error}")
        raise problem or ValueError(f"{self.path}: no rows")

    def _read(self, column: str, rows: Rows, out: Array) -> None:
        unique, inverse = np.unique(rows, return_inverse=True)  # a row is fetched and decoded once
        values = self._take(column, unique).combine_chunks()
        if values.null_count:
            row = int(unique[np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]])
            raise self.bad(row, f"column {column!r} is empty in row {row}")
        if column in self._images:
            out[...] = self._decode(column, unique, values)[inverse]
        else:
            flat = values.flatten() if self.columns[column].shape else values
            out[...] = flat.to_numpy(zero_copy_only=False).reshape(len(unique), *self.columns[column].shape)[inverse]

    def _decode(self, column: str, rows: Rows, values: Any) -> Array:  # noqa: ANN401 (pyarrow has no types)
        shape = self.columns[column].shape
        images = np.empty((len(rows), *shape), dtype=np.uint8)
        for place, row in enumerate(rows):
            try:
                image = decode_image(values[place].as_py())
            except ValueError as error:
                raise self.bad(int(row), f"column {column!r}, row {row}: {error}") from error
            if image.shape != shape:
                raise self.bad(
                    int(row), f"column {column!r}, row {row}: found an image of {image.shape}, expected {shape}"
                )
            images[place] = image
        return images

    def _whole_column(self, column: str) -> Rows:
        """All numbers of a column, by a scan.

        A scan's error ends the process where it quotes damaged bytes (arrow-rs' C stream), one in taking rows does not:
        a row of every file comes first.
        """
        with naming(self.path):
            counts = np.array([fragment.count_rows() for fragment in self._table.get().get_fragments()], dtype=np.int64)
            self._take(column, (np.cumsum(counts) - counts)[counts > 0])
            numbers: Rows = self._table.get().to_table(columns=[column])[column].to_numpy()
            return numbers

    def _take(self, column: str, rows: Rows) -> Any:  # noqa: ANN401 (pyarrow has no types)
        """Rows of a column."""
        with naming(self.path):
            return self._table.get().take(rows.tolist(), columns=[column])[column]


def _open(location: Location) -> Any:  # noqa: ANN401 (Lance has no types)
    import lance

    if not location.remote and not location.exists():
        raise FileNotFoundError(f"{location}: no such table; give the path or URL of a Lance table")
    try:
        return lance.dataset(location.address)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{location}: not a readable Lance table ({reason}); it may be truncated") from error
