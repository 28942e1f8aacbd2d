"""DINO-WM's folder: tensors and videos as one set of columns; pickles that run nothing."""

import pickle
import pprint
import shutil

import numpy as np
import pytest
import torch

from jepakit.datamodules.convert import Conversion, convert
from jepakit.datamodules.readers import BadEpisode, open_source


def test_columns_are_those_of_the_release(dinowm, lengths):
    folder, padded = dinowm
    source = open_source(folder)
    assert source.lengths.tolist() == list(lengths)
    rows = np.array([92, 0, 30, 51])
    where = [(2, 40), (0, 0), (1, 0), (1, 21)]
    states = np.array([np.concatenate([padded["states"][e, s], padded["velocities"][e, s]]) for e, s in where])
    np.testing.assert_array_equal(source.read("state", rows), states)
    np.testing.assert_array_equal(source.read("proprio", rows), states[:, [0, 1, 5, 6]])
    actions = np.array([padded["rel_actions"][e, s] for e, s in where]) / 100
    np.testing.assert_allclose(source.read("action", rows), actions, rtol=1e-6)
    assert abs(actions).max() < 5


@pytest.mark.parametrize("b_frames", [0, 3])
def test_random_access_is_frame_accurate(dinowm, lengths, marks, film, b_frames):
    folder = dinowm[0]
    film(folder / "obses/episode_002.mp4", [2], b_frames=b_frames, gop=15)
    source = pickle.loads(pickle.dumps(open_source(folder)))
    expected = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]
    rows = np.random.default_rng(0).integers(0, 93, 200)
    assert marks(source.read("pixels", rows)) == [expected[row] for row in rows]
    for row in rows[:30]:  # each one on its own, forwards and backwards
        assert marks(source.read("pixels", np.array([row]))) == [expected[row]]


@pytest.mark.parametrize(
    "stored",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda lengths: [np.int64(n) for n in lengths],
        lambda lengths: np.array(lengths, dtype=np.int32),
        lambda lengths: torch.tensor(lengths, dtype=torch.float32),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_lengths_may_be_any_plain_sequence(dinowm, lengths, stored, protocol):
    (dinowm[0] / "seq_lengths.pkl").write_bytes(pickle.dumps(stored(lengths), protocol))
    assert open_source(dinowm[0]).lengths.tolist() == list(lengths)


class Harmful:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "said"),
    [(pprint.pprint, r"pprint\.pprint"), (eval, r"builtins\.eval"), (shutil.rmtree, r"shutil\.rmtree")],
)
def test_a_pickle_runs_nothing(dinowm, tmp_path, function, said, capsys):
    precious = tmp_path / "precious"
    precious.mkdir()
    argument = "1/0" if function is eval else str(precious)
    (dinowm[0] / "seq_lengths.pkl").write_bytes(pickle.dumps(Harmful(function, (argument,))))
    with pytest.raises(ValueError, match=rf"seq_lengths\.pkl: not a pickle of plain integers .*{said}"):
        open_source(dinowm[0])
    assert precious.exists()
    assert capsys.readouterr().out == ""
    torch.save(Harmful(function, (argument,)), dinowm[0] / "states.pth")
    (dinowm[0] / "seq_lengths.pkl").write_bytes(pickle.dumps([3, 4, 5]))
    with pytest.raises(ValueError, match=r"states\.pth: not a complete file of plain tensors"):
        open_source(dinowm[0])
    assert precious.exists()


def test_a_tensor_inside_the_pickle_runs_nothing_either(dinowm, capsys):
    inner = pickle.dumps(Harmful(print, ("run",)), protocol=2)
    (dinowm[0] / "seq_lengths.pkl").write_bytes(pickle.dumps(Harmful(torch.storage._load_from_bytes, (inner,))))
    with pytest.raises(ValueError, match=r"seq_lengths\.pkl: not a pickle of plain integers"):
        open_source(dinowm[0])
    assert capsys.readouterr().out == ""


def test_damage_is_named(dinowm):
    folder = dinowm[0]
    (folder / "obses/episode_001.mp4").write_bytes(b"not a video")
    source = open_source(folder)
    assert source.read("pixels", np.array([0])).shape == (1, 64, 64, 3)
    with pytest.raises(BadEpisode, match=r"pusht_noise: episode 1: .*obses/episode_001\.mp4: not a readable video"):
        source.read("pixels", np.array([30]))
    (folder / "seq_lengths.pkl").write_bytes(pickle.dumps([30, 22, 99]))
    with pytest.raises(ValueError, match=r"seq_lengths\.pkl: found lengths up to 99, the tensors hold 41"):
        open_source(folder)
    (folder / "seq_lengths.pkl").write_bytes(pickle.dumps([30, 22]))
    with pytest.raises(ValueError, match=r"states\.pth: found \(3, 41, 5\), expected a tensor \(2, steps, width\)"):
        open_source(folder)
    states = folder / "states.pth"
    states.write_bytes(states.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"states\.pth: not a complete file of plain tensors"):
        open_source(folder)
    states.unlink()
    with pytest.raises(ValueError, match=r"states\.pth: missing"):
        open_source(folder)


def test_a_video_of_another_size_names_the_episode(dinowm):
    source = open_source(dinowm[0])
    source.columns["pixels"] = type(source.columns["pixels"])(dtype="uint8", shape=(32, 32, 3))
    with pytest.raises(BadEpisode, match=r"episode 0: .*found frames of \(64, 64, 3\), expected \(32, 32, 3\)"):
        source.read("pixels", np.array([0]))


def test_an_unreadable_video_is_left_out_of_a_conversion(dinowm, tmp_path):
    folder = dinowm[0]
    video = folder / "obses/episode_001.mp4"
    video.write_bytes(video.read_bytes()[:1500])
    source = open_source(folder)
    with pytest.raises(BadEpisode, match=r"episode 1: .*obses/episode_001\.mp4"):
        convert(source, tmp_path / "s", Conversion())
    result = convert(source, tmp_path / "s", Conversion(skip_bad=True))
    assert (result.episodes, [error.episode for error in result.skipped]) == (2, [1])
    kept = open_source(tmp_path / "s")
    assert kept.lengths.tolist() == [30, 41]
    np.testing.assert_array_equal(kept.read("pixels", np.arange(30, 71)), source.read("pixels", np.arange(52, 93)))
