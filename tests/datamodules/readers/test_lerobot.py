"""LeRobot v3: rows and frames of many episodes in few files, found through the metadata."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jepakit.datamodules.doctor import Checkup, diagnose
from jepakit.datamodules.readers import BadEpisode, open_source


@pytest.fixture
def edit_info(lerobot):
    file = lerobot[0] / "meta/info.json"

    def edit(**changes):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def test_numbers_are_those_recorded_in_any_order(lerobot):
    folder, actions, states = lerobot
    source = open_source(folder)
    assert source.fps == 10
    assert source.columns["next.done"].shape == ()
    rows = np.random.default_rng(0).permutation(93)
    np.testing.assert_array_equal(source.read("action", rows), np.concatenate(actions)[rows])
    np.testing.assert_array_equal(source.read("proprio", rows), np.concatenate(states)[rows])
    assert source.read("next.done", np.array([28, 29, 51, 92])).tolist() == [False, True, True, True]
    assert source.read("timestamp", np.array([31])) == pytest.approx(0.1)


def test_every_frame_is_the_one_asked_for_from_both_cameras(lerobot, lengths, marks):
    source = pickle.loads(pickle.dumps(open_source(lerobot[0])))
    expected = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]
    rows = np.random.default_rng(0).permutation(93)
    assert marks(source.read("pixels", rows)) == [expected[row] for row in rows]
    assert marks(255 - source.read("pixels_wrist", rows)) == [expected[row] for row in rows]


def test_episodes_described_in_any_order_are_in_the_order_of_their_rows(lerobot, lengths, marks):
    path = lerobot[0] / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).take([2, 0, 1]), path)
    source = open_source(lerobot[0])
    assert source.lengths.tolist() == list(lengths)
    assert marks(source.read("pixels", np.array([60, 0]))) == [(2, 8), (0, 0)]
    np.testing.assert_array_equal(source.read("action", np.array([60])), lerobot[1][2][[8]])


def test_a_window_reads_one_row_group(lerobot, monkeypatch):
    source = open_source(lerobot[0])
    seen = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: seen.append((a[1], k)) or original(*a, **k))
    for _ in range(2):
        source.read("action", 30 + np.arange(20))
    assert seen == [(1, {"columns": ["action"]})]


def test_images_inside_parquet_are_decoded(lerobot, edit_info, marks):
    from io import BytesIO

    from PIL import Image

    folder = lerobot[0]
    source = open_source(folder)
    frames = source.read("pixels", np.arange(93))
    for file, rows in (("file-000", range(52)), ("file-001", range(52, 93))):
        path = folder / f"data/chunk-000/{file}.parquet"
        encoded = []
        for row in rows:
            buffer = BytesIO()
            Image.fromarray(frames[row]).save(buffer, format="png")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pq.read_table(path).append_column("observation.images.top", pa.array(encoded)), path)
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    features["observation.images.top"]["dtype"] = "image"
    edit_info(features=features)
    rows = np.array([60, 3, 29, 3])
    np.testing.assert_array_equal(open_source(folder).read("pixels", rows), frames[rows])


def test_cameras_whose_names_end_alike_keep_apart(lerobot, edit_info):
    features = json.loads((lerobot[0] / "meta/info.json").read_text())["features"]
    image = {**features["observation.images.top"], "dtype": "image"}
    edit_info(features={**features, "left.image": image, "right.image": image})
    columns = open_source(lerobot[0]).columns
    assert [name for name in columns if name.startswith("pixels")] == [
        "pixels",
        "pixels_wrist",
        "pixels_image",
        "pixels_right.image",
    ]


def test_an_unreadable_video_names_file_and_episode(lerobot):
    folder = lerobot[0]
    source = open_source(folder)
    video = folder / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        BadEpisode, match=r"lerobot_set: episode 1: .*wrist/chunk-000/file-000\.mp4: not a readable video"
    ):
        source.read("pixels_wrist", np.array([31]))
    video.unlink()
    with pytest.raises(BadEpisode, match=r"file-000\.mp4: no such video"):
        open_source(folder).read("pixels_wrist", np.array([31]))


def test_a_video_that_ends_early_names_the_episode(lerobot, film):
    folder = lerobot[0]
    film(folder / "videos/observation.images.top/chunk-000/file-000.mp4", [0, 1])
    source = open_source(folder)
    assert source.read("pixels", np.array([51])).shape == (1, 64, 64, 3)
    with pytest.raises(BadEpisode, match=r"episode 2: .*ends before"):
        source.read("pixels", np.array([80]))


def test_frames_of_another_size_name_the_episode(lerobot, edit_info):
    features = json.loads((lerobot[0] / "meta/info.json").read_text())["features"]
    features["observation.images.top"]["shape"] = [3, 48, 64]
    edit_info(features=features)
    with pytest.raises(BadEpisode, match=r"found frames of \(64, 64, 3\), expected \(48, 64, 3\)"):
        open_source(lerobot[0]).read("pixels", np.array([0]))


def test_a_table_with_missing_rows_names_file_and_episode(lerobot):
    folder = lerobot[0]
    path = folder / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 30), path)
    source = open_source(folder)
    assert source.read("action", np.array([52 + 29])).shape == (1, 3)
    with pytest.raises(
        BadEpisode, match=r"episode 2: data/chunk-000/file-001\.parquet has 30 rows, expected at least 31"
    ):
        source.read("action", np.array([52 + 30]))


def test_truncated_tables_are_named(lerobot):
    folder = lerobot[0]
    data = folder / "data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(BadEpisode, match=r"episode 0: .*file-000\.parquet"):
        open_source(folder).read("action", np.array([0]))
    meta = folder / "meta/episodes/chunk-000/file-000.parquet"
    meta.write_bytes(meta.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"meta/episodes/chunk-000/file-000\.parquet: not a readable parquet file"):
        open_source(folder)


def test_a_missing_column_names_the_episode(lerobot):
    path = lerobot[0] / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)
    with pytest.raises(BadEpisode, match=r"episode 0: data/chunk-000/file-000\.parquet: column 'action'"):
        open_source(lerobot[0]).read("action", np.array([0]))


def test_other_versions_and_broken_descriptions_are_named(lerobot, edit_info):
    edit_info(codebase_version="v2.1")
    with pytest.raises(ValueError, match=r"meta/info\.json: codebase_version: found v2\.1, expected v3"):
        open_source(lerobot[0])
    (lerobot[0] / "meta/info.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta/info\.json: not readable as JSON"):
        open_source(lerobot[0])


def test_an_episode_without_steps_is_named(lerobot):
    path = lerobot[0] / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("length"), "length", pa.array([30, 0, 41])), path)
    with pytest.raises(BadEpisode, match=r"lerobot_set: episode 1: has no steps; .*--skip-bad"):
        open_source(lerobot[0])
    assert open_source(lerobot[0], check=False).lengths.tolist() == [30, 0, 41]


def test_the_doctor_compares_the_cameras_with_the_declared_rate(lerobot, film):
    healthy = diagnose(open_source(lerobot[0]), Checkup())
    assert [finding for finding in healthy.findings if finding.check == "time"] == []
    film(lerobot[0] / "videos/observation.images.top/chunk-000/file-000.mp4", [0, 0, 1, 1, 2, 2], fps=20)
    found = [finding.message for finding in diagnose(open_source(lerobot[0]), Checkup()).findings]
    assert "column 'pixels' was filmed at 20 fps, the rows are declared at 10" in found
