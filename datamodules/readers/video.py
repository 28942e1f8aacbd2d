"""Frame-accurate random access to videos: seek to a keyframe before the asked-for time, then decode up to it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.datamodules.readers.location import Location, PerProcess

_SEEK_BEYOND = 1.0  # seconds: what is farther ahead is sought, what is nearer is decoded up to
_OPEN_VIDEOS = 8
_HEAD = 1 << 16  # bytes
# A playlist or a script of FFmpeg named .mp4 would make it read other files and addresses.
_CONTAINED = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts", "protocol_whitelist": "file"}


def stamp_of(location: Location) -> bytes:
    """What tells a video from another one at little cost: its size and its beginning."""
    return str(location.size()).encode() + location.read_bytes(_HEAD)


class Video:
    """One open video, whose frames are asked for by time.

    Raises ``ValueError`` naming the file when it cannot be opened or holds no video.
    """

    def __init__(self, location: Location) -> None:
        import av

        self.location = location
        if not location.exists():
            raise ValueError(f"{location}: no such video")
        try:
            source = location.open() if location.remote else location.address
            self._container: Any = av.open(source, options=_CONTAINED)
            self._stream: Any = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise IndexError("no decoder for it")
        except (av.FFmpegError, IndexError, OSError) as error:
            raise ValueError(f"{location}: not a readable video ({error}); it may be truncated") from error
        # one thread: loader processes are the parallelism
        self._stream.codec_context.thread_count = 1
        self._decoded: Any = iter(())
        self._frame: Any = None
        self._time = -np.inf

    @property
    def rate(self) -> float:
        """Frames per second."""
        return float(self._stream.average_rate or 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and 3."""
        context = self._stream.codec_context
        return context.height, context.width, 3

    @property
    def frames(self) -> int:
        """Number of frames as the container says; 0 if it does not."""
        return int(self._stream.frames)

    @property
    def begin(self) -> float:
        """Time of the first frame, in seconds."""
        return float((self._stream.start_time or 0) * self._stream.time_base)

    def close(self) -> None:
        """Release the decoder and the file."""
        self._container.close()

    def read(self, times: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
        """Decode the frames shown at ``times`` ``(n,)`` seconds into ``out`` ``(n, h, w, 3)``.

        A frame fits when it is less than half a frame's duration away; raises ``ValueError`` naming the time when none
        is, and when a frame has another size or cannot be decoded.
        """
        import av

        try:
            for place in np.argsort(times, kind="stable"):
                frame = self._frame_at(float(times[place]))
                found = (frame.height, frame.width, 3)
                if found != out.shape[1:]:
                    raise ValueError(f"{self.location}: found frames of {found}, expected {out.shape[1:]}")
                out[place] = frame.to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.location}: cannot be decoded ({error})") from error

    def _frame_at(self, time: float) -> Any:  # noqa: ANN401 (PyAV's frame)
        half = 0.5 / self.rate if self.rate else 0.02
        if not self._time - half < time < self._time + _SEEK_BEYOND:
            self._seek(time)
        back = 0.0
        while True:
            while self._time <= time - half:
                self._frame = next(self._decoded, None)
                if self._frame is None:
                    self._time = -np.inf
                    raise ValueError(f"{self.location}: ends before {time:.3f} s")
                self._time = float(self._frame.pts * self._stream.time_base)
            if self._time < time + half:
                return self._frame
            # Containers index by decoding time, so a seek can land behind the frame: look from farther back.
            if back > time:  # it was already looked for from the start
                raise ValueError(f"{self.location}: no frame at {time:.3f} s, the next is at {self._time:.3f} s")
            back = max(2 * back, 1.0)
            self._seek(time - back)

    def _seek(self, time: float) -> None:
        ticks = int(max(time, 0) / self._stream.time_base)
        self._container.seek(ticks, stream=self._stream, backward=True)
        self._decoded, self._time = self._container.decode(self._stream), -np.inf


class Videos:
    """The last few videos used, kept open in every process."""

    def __init__(self) -> None:
        self._cache: PerProcess[OrderedDict[Location, Video]] = PerProcess(OrderedDict)

    def get(self, location: Location) -> Video:
        """The open video at ``location``."""
        cache = self._cache.get()
        if location not in cache:
            cache[location] = Video(location)
            if len(cache) > _OPEN_VIDEOS:
                cache.popitem(last=False)[1].close()
        cache.move_to_end(location)
        return cache[location]
