"""Random access by time in containers that seek differently."""

import numpy as np
import pytest

from jepakit.datamodules.readers.location import Location
from jepakit.datamodules.readers.video import Video


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_every_frame_is_the_one_asked_for(tmp_path, film, marks, container, b_frames):
    path = tmp_path / f"film.{container}"
    film(path, [2], gop=10, b_frames=b_frames)
    video = Video(Location.of(path))
    out = np.empty((1, 64, 64, 3), np.uint8)
    for step in np.random.default_rng(0).permutation(41):
        video.read(video.begin + np.array([step / 10]), out)
        assert marks(out) == [(2, step)]


def test_times_between_frames_are_refused(tmp_path, film):
    film(tmp_path / "film.mp4", [1])
    video = Video(Location.of(tmp_path / "film.mp4"))
    out = np.empty((1, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"film\.mp4: no frame at -1\.000 s, the next is at 0\.000 s"):
        video.read(np.array([-1.0]), out)
    with pytest.raises(ValueError, match=r"film\.mp4: ends before 9\.000 s"):
        video.read(np.array([9.0]), out)
    video.read(np.array([0.3]), out)  # and it is still usable


def test_a_file_without_video_is_named(tmp_path):
    (tmp_path / "notes.mp4").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.mp4: not a readable video"):
        Video(Location.of(tmp_path / "notes.mp4"))
