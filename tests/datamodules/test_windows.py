"""Windows against a plain reimplementation, for any episodes, spec and stride."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepakit.datamodules.store import Column
from jepakit.datamodules.windows import WindowDataset, WindowSpec


class MemorySource:
    """Episodes in memory, with rows between them that belong to none."""

    def __init__(self, lengths, gap):
        rng = np.random.default_rng(0)
        self.path = Path("memory")
        self.fingerprint = "memory"
        self.lengths = np.array(lengths, np.int64)
        self.offsets = np.cumsum([gap, *(length + gap for length in lengths[:-1])])
        rows = int(self.offsets[-1] + lengths[-1])
        self.data = {
            "pixels": rng.integers(0, 255, (rows, 2, 2, 3), dtype=np.uint8),
            "pixels_wrist": rng.integers(0, 255, (rows, 3, 4, 3), dtype=np.uint8),
            "action": rng.standard_normal((rows, 2)).astype(np.float32),
            "proprio": rng.standard_normal((rows, 3)).astype(np.float32),
            "state": rng.standard_normal((rows, 4)).astype(np.float32),
        }
        self.data["action"][self.offsets + self.lengths - 1] = np.nan
        self.columns = {name: Column(dtype=str(v.dtype), shape=v.shape[1:]) for name, v in self.data.items()}

    def read(self, column, rows, out=None):
        values = self.data[column][rows]
        if out is None:
            return values
        out[...] = values
        return out


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    gap=st.integers(0, 3),
    history=st.integers(1, 4),
    predictions=st.integers(1, 2),
    frame_skip=st.integers(1, 4),
    stride=st.integers(1, 5),
    data=st.data(),
)
def test_every_window_is_what_its_definition_says(lengths, gap, history, predictions, frame_skip, stride, data):
    source = MemorySource(lengths, gap)
    episodes = np.array(sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1), min_size=1))))
    spec = WindowSpec(history=history, predictions=predictions, frame_skip=frame_skip)
    expected = [(e, s) for e in episodes for s in range(0, lengths[e] - spec.steps + 1, stride)]
    last = np.array([7.0, 8.0], np.float32)
    if not expected:
        with pytest.raises(ValueError, match=f"a window needs {spec.steps}"):
            WindowDataset(source, episodes, spec, last_action=last, stride=stride)
        return
    dataset = WindowDataset(source, episodes, spec, last_action=last, stride=stride, columns=("pixels", "pixels_wrist"))
    assert len(dataset) == len(expected)
    chosen = np.random.default_rng(0).permutation(len(expected))[:20]
    batch = {name: value.numpy() for name, value in dataset.__getitems__(chosen.tolist()).items()}
    assert set(batch) == {"pixels", "pixels_wrist", "action", "proprio", "state", "episode", "start"}
    for place, index in enumerate(chosen):
        episode, start = expected[index]
        assert (batch["episode"][place], batch["start"][place]) == (episode, start)
        first = source.offsets[episode] + start
        frames = first + frame_skip * np.arange(spec.frames)
        for name in ("pixels", "pixels_wrist", "proprio", "state"):
            np.testing.assert_array_equal(batch[name][place], source.data[name][frames])
            assert batch[name].dtype == source.data[name].dtype
        for k in range(spec.frames):
            block = source.data["action"][first + k * frame_skip : first + (k + 1) * frame_skip]
            np.testing.assert_array_equal(batch["action"][place, k], np.where(np.isnan(block), last, block).ravel())


def test_windows_of_nothing_are_refused():
    for field in ("history", "predictions", "frame_skip"):
        with pytest.raises(ValueError, match=f"{field} of a window: found 0"):
            WindowSpec(**{field: 0})
