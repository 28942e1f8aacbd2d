"""The doctor finds each disease in data made ill on purpose, and none in healthy data."""

from pathlib import Path

import numpy as np
import pytest

from jepakit.datamodules.doctor import Checkup, diagnose
from jepakit.datamodules.doctor.frames import look_at, runs, slower_by
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter

FIXTURES = Path(__file__).parent.parent / "fixtures" / "datasets"
CHECKUP = Checkup(history=2, predictions=1, frame_skip=4)


class Patient:
    """Episodes in memory: a bright square whose place is the state, driven by the actions."""

    path = Path("patient")
    fingerprint = ""

    def __init__(self, *, episodes=6, steps=40, seed=0):
        rng = np.random.default_rng(seed)
        self.columns = {
            "pixels": Column(dtype="uint8", shape=(32, 32, 3)),
            "action": Column(dtype="float32", shape=(2,)),
            "state": Column(dtype="float32", shape=(2,)),
            "contact": Column(dtype="bool", shape=()),
            "step_idx": Column(dtype="int64", shape=()),
        }
        self.lengths = np.full(episodes, steps)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        starts = rng.integers(0, 28, (episodes, 1, 2))
        walk = starts + np.cumsum(rng.choice([-2, -1, 1, 2], (episodes, steps, 2)), axis=1)
        self.state = (27 - np.abs(walk % 54 - 27)).reshape(-1, 2).astype(np.float32)  # reflected at the walls
        self.action = rng.uniform(-1, 1, (episodes * steps, 2)).astype(np.float32)
        self.action[self.offsets + steps - 1] = np.nan
        self.contact = np.zeros(episodes * steps, dtype=bool)
        self.contact[:10] = True
        self.step_idx = np.tile(np.arange(steps), episodes)
        self.pixels = np.full((episodes * steps, 32, 32, 3), 60, dtype=np.uint8)
        for frame, (x, y) in zip(self.pixels, self.state.astype(int), strict=True):
            frame[y : y + 4, x : x + 4] = 250

    def rows(self, episode):
        return slice(self.offsets[episode], self.offsets[episode] + self.lengths[episode])

    def read(self, column, rows, out=None):
        return getattr(self, column)[rows]


def findings(patient, level=None):
    report = diagnose(patient, CHECKUP)
    return {(f.check, f.episodes): f.message for f in report.findings if level in (None, f.level)}


def test_healthy_data_have_no_findings_and_true_figures():
    patient = Patient()
    report = diagnose(patient, CHECKUP)
    assert report.findings == []
    assert report.figures["episodes"] == 6
    assert report.figures["windows"] == 6 * (40 - 12 + 1)
    assert report.figures["windows_with_contact"] == pytest.approx(10 / (6 * 29))
    assert report.figures["frames"]["pixels"] == {
        "looked_at": 240,
        "black": 0,
        "unchanged_pairs": pytest.approx(0, abs=0.01),
    }
    np.testing.assert_allclose(report.figures["action"]["low"], np.nanmin(patient.action, axis=0))
    np.testing.assert_allclose(report.figures["action"]["std"], np.nanstd(patient.action.astype(float), axis=0))


def test_nan_infinite_constant_and_extreme_actions():
    patient = Patient()
    patient.action[patient.offsets[2] + 38, 0] = np.nan  # the step before the last
    patient.action[patient.offsets[4] + 5, 1] = np.inf
    assert findings(patient, "error") == {
        ("action", (2,)): "episode 2: NaN before the last step",
        ("action", (4,)): "episode 4: infinite values",
    }
    patient = Patient()
    patient.action[:, 1] = 0.5
    assert "dimensions [1] are constant" in findings(patient, "error")["action", ()]
    patient = Patient()
    patient.action[7, 0] = 100
    assert "dimensions [0] have values beyond 10" in findings(patient, "warning")["action", ()]


def test_states_that_are_missing_or_constant():
    patient = Patient()
    patient.state[patient.rows(3)] = np.nan
    assert findings(patient, "error") == {("state", (3,)): "episode 3: NaN or infinite values"}
    patient = Patient()
    patient.state = np.concatenate([patient.state, np.ones((240, 1), np.float32)], axis=1)
    assert "entries [2] are constant" in findings(patient, "note")["state", ()]


def test_black_frames():
    patient = Patient()
    patient.pixels[patient.offsets[1] + 3] = 5
    assert findings(patient, "error") == {("pixels", (1,)): "episode 1: 1 black frames"}


def test_a_picture_frozen_while_the_state_moves_and_one_that_rests():
    patient = Patient()
    rows = patient.rows(5)
    patient.pixels[rows.start + 10 : rows.start + 25] = patient.pixels[rows.start + 10]
    [(key, message)] = findings(patient, "error").items()
    assert key == ("pixels", (5,))
    assert "rows 10 to 24 of episode 5" in message
    patient.state[rows.start + 10 : rows.start + 25] = patient.state[rows.start + 10]
    assert findings(patient) == {}
    patient.pixels[rows], patient.state[rows] = patient.pixels[rows.start], patient.state[rows.start]
    assert findings(patient) == {("pixels", (5,)): "episode 5: the picture never changes"}


def test_a_frozen_picture_is_seen_beside_a_longer_rest():
    patient = Patient()
    begin = patient.rows(5).start
    patient.pixels[begin + 2 : begin + 12] = patient.pixels[begin + 2]
    rest = slice(begin + 20, begin + 38)
    patient.pixels[rest], patient.state[rest] = patient.pixels[rest.start], patient.state[rest.start]
    assert "longest: rows 2 to 11 of episode 5" in findings(patient, "error")["pixels", (5,)]


def test_velocities_may_jump_while_the_picture_rests():
    patient = Patient()
    rows = patient.rows(5)
    rest = slice(rows.start + 10, rows.start + 25)
    patient.pixels[rest], patient.state[rest] = patient.pixels[rest.start], patient.state[rest.start]
    velocity = np.random.default_rng(1).normal(size=(240, 2)).astype(np.float32)
    patient.state = np.concatenate([patient.state, velocity], axis=1)
    patient.columns["state"] = Column(dtype="float32", shape=(4,))
    assert findings(patient) == {}


@pytest.mark.parametrize(("every", "level"), [(3, "error"), (2, "note")])
def test_pictures_slower_than_the_actions(every, level):
    patient = Patient()
    source = np.arange(240) - np.arange(240) % 40 % every
    patient.pixels = patient.pixels[source]
    del patient.columns["state"]
    assert f"changes only every {every} rows" in findings(patient, level)["time", ()]


def test_rows_that_are_missing_or_thinned():
    patient = Patient()
    patient.step_idx[patient.offsets[2] + 20 :] += 1
    assert ("time", (2,)) in findings(patient, "error")
    patient = Patient()
    patient.step_idx *= 5
    assert "rows are 5 steps apart" in findings(patient, "warning")["time", ()]


def test_time_stamps_against_the_declared_rate():
    patient = Patient()
    patient.fps = 10.0
    patient.columns["timestamp"] = Column(dtype="float32", shape=())
    patient.timestamp = (patient.step_idx / 10).astype(np.float32)
    assert findings(patient) == {}
    patient.timestamp[patient.rows(4)] /= 3
    assert findings(patient, "error") == {
        ("time", (4,)): "episode 4: time stamps advance at 30 Hz, declared are 10 fps"
    }


def test_short_empty_and_repeated_episodes():
    patient = Patient()
    patient.lengths = patient.lengths.copy()
    patient.lengths[[1, 2]] = 0, 11
    for column in ("pixels", "action", "state", "contact"):
        values = getattr(patient, column)
        values[patient.rows(5)] = values[patient.rows(0)]
    found = findings(patient)
    assert found["length", (1,)] == "episode 1: no steps"
    assert "shorter than a window of 12 rows" in found["length", (2,)]
    assert "the same episode" in found["duplicates", (0, 5)]
    assert diagnose(patient, Checkup(history=20)).count("error") == 2


def test_states_that_visit_a_corner_only():
    patient = Patient()
    patient.state[:, 0] = np.where(np.arange(240) == 0, 100, patient.state[:, 0] % 3)
    report = diagnose(patient, CHECKUP)
    assert report.figures["coverage"]["by_entry"]["0"] < 0.2 < 0.9 < report.figures["coverage"]["by_entry"]["1"]
    assert any(finding.check == "coverage" and "entries 0:" in finding.message for finding in report.findings)


def test_what_cannot_be_read_is_a_finding():
    patient = Patient()
    whole = patient.read

    def read(column, rows, out=None):
        if column == "pixels" and patient.offsets[3] in rows:
            raise ValueError("frames.mp4: not a readable video")
        return whole(column, rows)

    patient.read = read
    assert findings(patient, "error") == {("unreadable", (3,)): "episode 3: frames.mp4: not a readable video"}


def test_the_budget_of_frames_is_spread_over_the_episodes():
    report = diagnose(Patient(), Checkup(history=2, predictions=1, frame_skip=4, frames=120))
    assert report.figures["frames"]["pixels"]["looked_at"] == 120


def test_a_store_is_compared_with_its_hashes(tmp_path):
    patient = Patient()
    with EpisodeWriter(tmp_path / "store", patient.columns, shard_bytes=200_000) as writer:
        for episode in range(6):
            writer.append({name: getattr(patient, name)[patient.rows(episode)] for name in patient.columns})
    healthy = diagnose(EpisodeStore(tmp_path / "store"), CHECKUP)
    assert healthy.findings == []
    assert healthy.figures["integrity"] == "all hashes match"
    file = tmp_path / "store/shard-00001/pixels.npy"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    [finding] = diagnose(EpisodeStore(tmp_path / "store"), CHECKUP).findings
    assert (finding.level, finding.check) == ("error", "integrity")
    assert "shard-00001/pixels.npy" in finding.message
    assert finding.episodes
    assert 0 not in finding.episodes


@pytest.mark.parametrize("name", ["pusht_sample.h5", "pusht_sample.lance"])
def test_the_public_samples_are_usable_but_never_move_the_block(name):
    report = diagnose(open_source(FIXTURES / name), Checkup())
    assert report.count("error") == 0
    [finding] = report.findings
    assert "state entries 2, 3" in finding.message


def test_pairs_runs_and_periods():
    frames = np.zeros((5, 4, 4, 3), np.uint8)
    frames[3:, 0, 0, 0] = 17
    dark, alike = look_at(frames)
    assert dark.tolist() == [True, True, True, False, False]
    assert alike.tolist() == [True, True, False, True]
    assert runs(alike) == [(0, 2), (3, 1)]
    assert runs(np.zeros(0, bool)) == []
    assert slower_by([np.arange(0, 60, 3), np.arange(1, 60, 3)], 120) == 3
    assert slower_by([np.arange(60)], 60) == 1
    assert slower_by([np.array([5])], 60) == 1
    assert slower_by([np.arange(0, 330, 30)], 330) == 1  # it rarely changes, which is not a slow camera


def test_features_alone_are_no_data_set(tmp_path):
    with EpisodeWriter(tmp_path / "s", {"features": Column(dtype="float32", shape=(2, 3))}) as writer:
        writer.append({"features": np.zeros((9, 2, 3), np.float32)})
    assert findings(EpisodeStore(tmp_path / "s")) == {
        ("unreadable", ()): "columns ['pixels', 'action'] not found; it has features"
    }


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="frame_skip: found 0, expected at least 1"):
        Checkup(frame_skip=0)
