"""LeRobot v3 data sets: parquet tables and mp4 videos that hold many episodes each, with ``meta/`` saying where."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.base import BadEpisode, Reader, Rows, column_dtype, decode_image
from jepakit.datamodules.readers.location import Location, PerProcess
from jepakit.datamodules.readers.video import Videos, stamp_of
from jepakit.datamodules.store import Array, Column
from jepakit.datamodules.store.schema import NUMBERS
from jepakit.json_files import check_json, parse_json
from jepakit.untrusted import naming

_VERSION = "v3."
_NAMES = {"observation.state": "proprio", "observation.environment_state": "state"}
_INDEX = {"frame_index", "episode_index", "index", "task_index"}
_IN_ORDER = [("dataset_from_index", "ascending"), ("episode_index", "ascending")]
_TABLES_KEPT = 64
_FIELD = re.compile(r"\{(?:chunk_index|file_index|video_key)(?::0?\d?d)?\}")
_EXAMPLE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_OTHERS = ("video", "image", "string")
_FASTEST = 1e6  # rows per second
_MOST_NUMBERS = 1 << 28  # in one row of one feature: a 9,000-pixel frame
_INFO = {
    **{"codebase_version": str, "fps": float, "data_path": str, "video_path?": (str, None)},
    "features": {"*": {"dtype": str, "shape": [int], "names?": object}},
}


class LeRobotReader(Reader):
    """Episodes of a LeRobot v3 data set (older versions: convert them with LeRobot's own script).

    ``observation.state`` becomes ``proprio``, ``observation.environment_state`` becomes ``state``; the first camera of
    ``info.json`` becomes ``pixels``, every further one ``pixels_<name>`` with the last part of its name, or all of it
    where that is taken. Other numeric features keep their names; text is left out.
    """

    kind = "lerobot"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._info = _read_info(location)
        self.fps = float(self._info["fps"])
        self._features: dict[str, str] = {}  # our column → their feature
        columns = self._columns()
        self._episodes = self._read_episodes()
        lengths, offsets = self._episodes["length"], self._episodes["dataset_from_index"]
        self._file_starts = self._first_rows()
        self._videos = Videos()
        self._tables: PerProcess[OrderedDict[tuple[str, int, str], Array]] = PerProcess(OrderedDict)
        self._files: PerProcess[dict[str, Any]] = PerProcess(dict)
        self._describe(columns, lengths, offsets, stamp=str(self._info.get("total_frames")))

    def _columns(self) -> dict[str, Column]:
        """Our columns from the features of ``info.json``; fills ``_features``."""
        columns: dict[str, Column] = {}
        for feature, info in self._info["features"].items():
            if feature in _INDEX or info["dtype"] == "string":
                continue
            if info["dtype"] in ("video", "image"):
                short = f"pixels_{feature.rpartition('.')[2]}" if "pixels" in columns else "pixels"
                name = short if short not in columns else f"pixels_{feature}"
                columns[name] = Column(dtype="uint8", shape=_frame_shape(info), codec="raw")
            else:
                name = _NAMES.get(feature, feature)
                shape = tuple(info["shape"])
                dtype = column_dtype(self.path, feature, np.dtype(info["dtype"]))
                # scalars are stored as plain numbers, and the format calls their shape (1,)
                columns[name] = Column(dtype=dtype, shape=() if shape == (1,) and name != "action" else shape)
            self._features[name] = feature
        return columns

    def _read_episodes(self) -> dict[str, NDArray[Any]]:
        """Where every episode is: one array per field of ``meta/episodes``, in the order of the rows."""
        import pyarrow as pa

        wanted = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
        for feature in self._video_features():
            wanted += [f"videos/{feature}/{field}" for field in ("chunk_index", "file_index", "from_timestamp")]
        files = (self.location / "meta/episodes").files(".parquet")
        if not files:
            raise ValueError(
                f"{self.path}: no parquet files in meta/episodes; a LeRobot v3 data set describes its episodes"
            )
        table = pa.concat_tables([_parquet_columns(file, wanted) for file in files]).sort_by(_IN_ORDER)
        episodes = {name: table[name].to_numpy() for name in wanted}
        if (episodes["length"] < 0).any():
            raise ValueError(f"{self.path}: meta/episodes: found negative lengths; record the data set again")
        return episodes

    def _video_features(self) -> list[str]:
        return [name for name, info in self._info["features"].items() if info["dtype"] == "video"]

    def camera_fps(self) -> dict[str, float]:
        """Frames per second of the first video of every camera, by our column; unreadable ones are left out."""
        rates = {}
        for column, feature in self._features.items():
            if self._info["features"][feature]["dtype"] == "video":
                with suppress(ValueError):
                    rates[column] = self._videos.get(self._video(feature, 0)).rate
        return rates

    def _file_of(self, episode: int) -> tuple[int, int]:
        return int(self._episodes["data/chunk_index"][episode]), int(self._episodes["data/file_index"][episode])

    def _first_rows(self) -> dict[tuple[int, int], int]:
        """The row of the data set with which every data file begins."""
        starts: dict[tuple[int, int], int] = {}
        for episode, offset in enumerate(self._episodes["dataset_from_index"]):
            key = self._file_of(episode)
            starts[key] = min(int(offset), starts.get(key, int(offset)))
        return starts

    def _content(self, column: str, row: int) -> bytes:
        feature = self._features[column]
        if self._info["features"][feature]["dtype"] != "video":
            return super()._content(column, row)
        return stamp_of(self._video(feature, self.episode_of(row)))

    def _read(self, column: str, rows: Rows, out: Array) -> None:
        feature = self._features[column]
        if self._info["features"][feature]["dtype"] == "video":
            for episode, steps, places in self.by_episode(rows):
                out[places] = self._frames(column, episode, steps)
            return
        for episode, steps, places in self.by_episode(rows):
            out[places] = self._values(column, episode, steps)

    def _video(self, feature: str, episode: int) -> Location:
        """The video that holds an episode."""
        fields = (f"videos/{feature}/chunk_index", f"videos/{feature}/file_index")
        chunk, file = (int(self._episodes[field][episode]) for field in fields)
        name: str = self._info["video_path"].format(video_key=feature, chunk_index=chunk, file_index=file)
        return self.location / name

    def _frames(self, column: str, episode: int, steps: Rows) -> NDArray[np.uint8]:
        """Frames of one episode from the video that holds it."""
        feature = self._features[column]
        begin = float(self._episodes[f"videos/{feature}/from_timestamp"][episode])
        frames = np.empty((len(steps), *self.columns[column].shape), dtype=np.uint8)
        try:
            self._videos.get(self._video(feature, episode)).read(begin + steps / float(self._info["fps"]), frames)
        except ValueError as error:
            raise BadEpisode(self.path, episode, str(error)) from error
        return frames

    def _values(self, column: str, episode: int, steps: Rows) -> Array:
        """Rows of one episode from the parquet row groups that hold them."""
        key = self._file_of(episode)
        name = self._info["data_path"].format(chunk_index=key[0], file_index=key[1])
        rows = self._episodes["dataset_from_index"][episode] - self._file_starts[key] + steps
        try:
            ends = self._row_group_ends(name)
        except (OSError, ValueError) as error:
            raise BadEpisode(self.path, episode, f"{name}: not a readable parquet file ({error})") from error
        if int(rows.max()) >= int(ends[-1]):
            raise BadEpisode(self.path, episode, f"{name} has {ends[-1]} rows, expected at least {rows.max() + 1}")
        groups = np.searchsorted(ends, rows, side="right")
        out = np.empty((len(rows), *self.columns[column].shape), dtype=self.columns[column].dtype)
        for group in np.unique(groups):
            chosen = groups == group
            local = rows[chosen] - (ends[group - 1] if group else 0)
            try:
                out[chosen] = self._plain(column, self._group(name, int(group), self._features[column]).take(local))
            except (OSError, ValueError) as error:
                raise BadEpisode(self.path, episode, f"{name}: column {self._features[column]!r}: {error}") from error
        return out

    def _file(self, name: str) -> Any:  # noqa: ANN401 (pyarrow has no types)
        """An open parquet file."""
        files = self._files.get()
        if name not in files:
            files[name] = _open_parquet(self.location / name)
        return files[name]

    def _row_group_ends(self, name: str) -> Rows:
        metadata = self._file(name).metadata
        return np.cumsum([metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)])

    def _group(self, name: str, group: int, feature: str) -> Any:  # noqa: ANN401 (pyarrow has no types)
        """One column of one row group, kept for the next window."""
        tables = self._tables.get()
        key = (name, group, feature)
        if key not in tables:
            if feature not in self._file(name).schema_arrow.names:
                raise ValueError("not found")
            tables[key] = self._file(name).read_row_group(group, columns=[feature])[feature].combine_chunks()
            if len(tables) > _TABLES_KEPT:
                tables.popitem(last=False)
        tables.move_to_end(key)
        return tables[key]

    def _plain(self, column: str, values: Any) -> Array:  # noqa: ANN401 (pyarrow has no types)
        """Values of a parquet column as ``(n, …)``."""
        shape = self.columns[column].shape
        if self._info["features"][self._features[column]]["dtype"] == "image":
            images = [decode_image(value["bytes"].as_py() or b"") for value in values]
            wrong = next((image.shape for image in images if image.shape != shape), None)
            if wrong is not None:
                raise ValueError(f"found an image of {wrong}, expected {shape}")
            return np.stack(images)
        while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
            values = values.flatten()
        return values.to_numpy(zero_copy_only=False).reshape(-1, *shape)  # type: ignore[no-any-return]


def _read_info(location: Location) -> dict[str, Any]:
    """``meta/info.json``, checked for what is read from it."""
    file = location / "meta/info.json"
    info = parse_json(file.read_bytes(), where=str(file))
    version = info.get("codebase_version")
    if not str(version).startswith(_VERSION):
        raise ValueError(
            f"{file}: codebase_version: found {version}, expected v3.x; LeRobot's own conversion script brings older "
            "data sets there"
        )
    check_json(info, _INFO, where=str(file))
    if not 0 < info["fps"] <= _FASTEST:
        raise ValueError(f"{file}: fps: found {info['fps']}, expected more than 0 and at most {_FASTEST}")
    for name in ("data_path", "video_path"):
        if set(_FIELD.sub("", info.get(name) or "")) & set("{}"):
            raise ValueError(f"{file}: {name}: found {info[name]!r}, expected a path like {_EXAMPLE}")
    for name, feature in info["features"].items():
        if feature["dtype"] not in _OTHERS and not NUMBERS.fullmatch(feature["dtype"]):
            raise ValueError(f"{file}: features.{name}.dtype: found {feature['dtype']!r}, no such type")
        if feature["dtype"] == "video" and not info.get("video_path"):
            raise ValueError(f"{file}: video_path: found none, expected the path of the videos of {name!r}")
        if min(feature["shape"], default=1) < 1 or math.prod(feature["shape"]) > _MOST_NUMBERS:
            raise ValueError(
                f"{file}: features.{name}.shape: found {feature['shape']}, expected 1 to {_MOST_NUMBERS} numbers"
            )
    return info


def _frame_shape(info: dict[str, Any]) -> tuple[int, ...]:
    """(h, w, 3) of a camera; the format stores either order and names the axes."""
    shape = tuple(info["shape"])
    names = [str(name)[0] for name in info.get("names") or "hwc"]
    return tuple(shape[names.index(axis)] for axis in "hwc") if sorted(names) == ["c", "h", "w"] else shape


def _open_parquet(location: Location) -> Any:  # noqa: ANN401 (pyarrow has no types)
    import pyarrow.parquet as pq

    if not location.exists():
        raise ValueError(f"{location}: missing")
    return pq.ParquetFile(location.open() if location.remote else location.address)


def _parquet_columns(location: Location, names: list[str]) -> Any:  # noqa: ANN401 (pyarrow has no types)
    """Some columns of a whole parquet file; raises ``ValueError`` naming those it lacks."""
    try:
        file = _open_parquet(location)
    except (OSError, ValueError) as error:
        raise ValueError(f"{location}: not a readable parquet file ({error}); it may be truncated") from error
    missing = sorted(set(names) - set(file.schema_arrow.names))
    if missing:
        raise ValueError(f"{location}: columns {missing} not found; expected the episode table of LeRobot v3")
    with naming(location):
        return file.read(columns=names)
