"""Pictures for people: the right frames in the right places, H.264 that plays, nothing half-written."""

import resource
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jepakit.datamodules.preview import Preview, contact_sheet, mosaic, write_preview
from jepakit.datamodules.readers import open_source

SAMPLE = Path(__file__).parent.parent / "fixtures" / "datasets" / "pusht_sample.h5"
TILE, GAP, LABEL = 128, 4, 14  # 64-pixel frames are shown at twice their size


@pytest.fixture
def source():
    return open_source(SAMPLE)


def test_the_sheet_shows_first_to_last_frame_of_every_episode(source):
    sheet = contact_sheet(source, [0, 2], Preview(frames=5))
    for line, episode in enumerate((0, 2)):
        for place, step in ((0, 0), (4, source.lengths[episode] - 1)):
            top, left = GAP + LABEL + line * (TILE + LABEL + GAP), GAP + place * (TILE + GAP)
            [expected] = source.read("pixels", np.array([source.offsets[episode] + step]))
            np.testing.assert_array_equal(sheet[top : top + TILE : 2, left : left + TILE : 2], expected)


def test_the_mosaic_plays_all_episodes_and_holds_the_last_frame(source):
    frames = [frame.copy() for frame in mosaic(source, [0, 1, 2], "pixels")]
    assert len(frames) == 41
    for episode, place in ((0, (0, 0)), (1, (0, 1)), (2, (1, 0))):
        top, left = (GAP + index * (TILE + GAP) for index in place)
        for step in (0, 40):
            row = source.offsets[episode] + min(step, source.lengths[episode] - 1)
            [expected] = source.read("pixels", np.array([row]))
            np.testing.assert_array_equal(frames[step][top : top + TILE : 2, left : left + TILE : 2], expected)


def test_both_files_are_written_and_play(source, tmp_path):
    sheet, video = write_preview(source, tmp_path / "out", Preview(episodes=2, frames=4, fps=5))
    with Image.open(sheet) as image:
        assert image.size == (GAP + 4 * (TILE + GAP), GAP + 2 * (TILE + LABEL + GAP))
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 5)
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    expected = [frame.copy() for frame in mosaic(source, [0, 2], "pixels")]
    assert len(shown) == len(expected) == 41
    assert np.abs(shown[20].astype(int) - expected[20][: shown[20].shape[0], : shown[20].shape[1]]).mean() < 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["contact-sheet.png", "episodes.mp4"]


def test_a_full_disk_leaves_the_earlier_preview(source, tmp_path):
    write_preview(source, tmp_path, Preview(episodes=1, frames=2))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_preview(source, tmp_path, Preview(episodes=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_unknown_cameras_are_named(source, tmp_path):
    with pytest.raises(ValueError, match="camera 'pixels_wrist' not found; it has action, pixels"):
        write_preview(source, tmp_path, Preview(camera="pixels_wrist"))
    with pytest.raises(ValueError, match=r"camera 'state': found float32 rows of \(7,\), expected uint8 \(h, w, 3\)"):
        write_preview(source, tmp_path, Preview(camera="state"))
    with pytest.raises(ValueError, match="episodes: found 0"):
        Preview(episodes=0)


def test_data_without_a_step_are_refused(source, tmp_path):
    source.lengths[:] = 0
    with pytest.raises(ValueError, match="found no episode with steps"):
        write_preview(source, tmp_path / "out", Preview())
    assert not (tmp_path / "out").exists()
