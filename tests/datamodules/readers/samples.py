"""Small data sets in the public formats; every frame carries its episode and step as blocks of black and white."""

import json
import pickle
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

LENGTHS = (30, 22, 41)
SIZE, BLOCK = 64, 16


def marked_frame(episode, step):
    """A frame whose 16 blocks are the bits of (episode, step)."""
    bits = [(episode << 10 | step) >> bit & 1 for bit in range(16)]
    return np.kron(np.array(bits, np.uint8).reshape(4, 4) * 200 + 20, np.ones((BLOCK, BLOCK), np.uint8))[
        ..., None
    ].repeat(3, 2)


def read_marks(frames):
    """The (episode, step) that each frame carries."""
    blocks = frames.reshape(-1, 4, BLOCK, 4, BLOCK, 3).mean(axis=(2, 4, 5)).reshape(-1, 16) > 120
    codes = (blocks << np.arange(16)).sum(axis=1)
    return [(int(code) >> 10, int(code) & 1023) for code in codes]


def write_video(path, frames, *, fps=10, codec="libx264", gop=12, b_frames=2, crf="23"):
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": crf, "bf": str(b_frames)} if codec == "libx264" else {"crf": "30"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def numbers(width, seed):
    """One (steps, width) array per episode."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, width)).astype(np.float32) for length in LENGTHS]


def write_dinowm(folder):
    """DINO-WM's folder; returns the padded tensors by name."""
    folder.mkdir()
    padded = {}
    for name, width, scale in (("states", 5, 1), ("velocities", 2, 1), ("rel_actions", 2, 100)):
        values = torch.zeros(len(LENGTHS), max(LENGTHS), width)
        for episode, rows in enumerate(numbers(width, seed=width + scale)):
            values[episode, : len(rows)] = torch.from_numpy(rows * scale)
        torch.save(values, folder / f"{name}.pth")
        padded[name] = values.numpy()
    (folder / "seq_lengths.pkl").write_bytes(pickle.dumps(list(LENGTHS)))
    for episode, length in enumerate(LENGTHS):
        frames = [marked_frame(episode, step) for step in range(length)]
        write_video(folder / f"obses/episode_{episode:03d}.mp4", frames)
    return padded


def write_lerobot(folder):
    """Two cameras; two episodes in the first data file (one row group each), the third in a second one.

    Returns actions and states, an array per episode.
    """
    fps = 10
    actions, states = numbers(3, seed=1), numbers(4, seed=2)
    starts = np.cumsum(LENGTHS) - LENGTHS
    schema = pa.schema(
        [
            ("action", pa.list_(pa.float32(), 3)),
            ("observation.state", pa.list_(pa.float32())),
            ("timestamp", pa.float32()),
            ("frame_index", pa.int64()),
            ("episode_index", pa.int64()),
            ("index", pa.int64()),
            ("next.done", pa.bool_()),
        ]
    )
    (folder / "data/chunk-000").mkdir(parents=True)
    for file, episodes in ((0, (0, 1)), (1, (2,))):
        with pq.ParquetWriter(folder / f"data/chunk-000/file-{file:03d}.parquet", schema) as writer:
            for episode in episodes:
                steps = np.arange(LENGTHS[episode])
                columns = [
                    list(actions[episode]),
                    list(states[episode]),
                    (steps / fps).astype(np.float32),
                    steps,
                    np.full(len(steps), episode),
                    starts[episode] + steps,
                    steps == len(steps) - 1,
                ]
                writer.write_table(
                    pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema)
                )
    cameras = ("observation.images.top", "observation.images.wrist")
    for camera in cameras:
        everything = [marked_frame(e, s) if camera.endswith("top") else 255 - marked_frame(e, s)
                      for e, length in enumerate(LENGTHS) for s in range(length)]  # fmt: skip
        write_video(folder / f"videos/{camera}/chunk-000/file-000.mp4", everything, codec="libsvtav1", gop=2)
    episodes = {
        "episode_index": [0, 1, 2],
        "length": list(LENGTHS),
        "tasks": [["push"]] * 3,
        "dataset_from_index": starts,
        "dataset_to_index": starts + LENGTHS,
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
    }
    for camera in cameras:
        episodes[f"videos/{camera}/chunk_index"] = [0, 0, 0]
        episodes[f"videos/{camera}/file_index"] = [0, 0, 0]
        episodes[f"videos/{camera}/from_timestamp"] = starts / fps
        episodes[f"videos/{camera}/to_timestamp"] = (starts + LENGTHS) / fps
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    video = {"dtype": "video", "shape": [3, SIZE, SIZE], "names": ["channels", "height", "width"]}
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "action": {"dtype": "float32", "shape": [3], "names": None},
            "observation.state": {"dtype": "float32", "shape": [4], "names": None},
            **dict.fromkeys(cameras, video),
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            "frame_index": {"dtype": "int64", "shape": [1], "names": None},
            "episode_index": {"dtype": "int64", "shape": [1], "names": None},
            "index": {"dtype": "int64", "shape": [1], "names": None},
        },
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return actions, states
