"""A probe's numbers, pictures and videos reach the loggers, each in its way."""

import importlib.util
import json
import sys
import types

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from oracle import LEWM
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jepakit.callbacks import Probe
from jepakit.loggers import TrackioLogger
from jepakit.zoo import LeWM

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


class Looking(Probe):
    """Writes a picture and a video, of another probe too."""

    name = "looking"

    def measure(self, model, data, folder):
        (folder / "other.png").write_bytes(b"another probe's")
        Image.new("RGB", (6, 4), (200, 100, 0)).save(folder / "looking.png")
        (folder / "looking_ahead.mp4").write_bytes(b"a film")
        return {"colour": 0.5, "objects/auroc": 0.75}


def fit(data, *loggers):
    torch.manual_seed(0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_steps=2, accelerator="cpu", logger=list(loggers), callbacks=[Looking()], **quiet)
    trainer.fit(LeWM(LEWM), data)


def test_tensorboard_shows_numbers_and_pictures_and_csv_keeps_numbers(data, tmp_path):
    fit(data, TensorBoardLogger(tmp_path, name="board"), CSVLogger(tmp_path, name="table"))
    board = EventAccumulator(str(tmp_path / "board" / "version_0"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("probe/looking/objects/auroc")] == [(2, 0.75)]
    assert board.Tags()["images"] == ["picture/looking"]
    (shown,) = board.Images("picture/looking")
    assert (shown.width, shown.height, shown.step) == (6, 4, 2)
    assert "probe/looking/colour" in (tmp_path / "table" / "version_0" / "metrics.csv").read_text()


def test_weights_and_biases_keeps_everything_offline(data, tmp_path, monkeypatch):
    assert importlib.util.find_spec("wandb"), "wandb is in the extra dev"
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="tests", save_dir=tmp_path, offline=True)
    fit(data, TensorBoardLogger(tmp_path), logger)
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert summary["probe/looking/colour"] == 0.5
    assert summary["picture/looking"]["_type"] == "images/separated"
    assert summary["video/looking_ahead"]["_type"] == "videos"
    media = sorted(path.suffix for path in (tmp_path / "wandb").rglob("media/**/*") if path.is_file())
    assert media == [".mp4", ".png"]
    assert list((tmp_path / "wandb").rglob("*.wandb"))


class FakeTrackio(types.ModuleType):
    """What ``TrackioLogger`` calls of Trackio, which needs an older Pillow than the tests."""

    def __init__(self):
        super().__init__("trackio")
        self.log, self.started, self.finished = [], [], 0

    def Image(self, value):
        return "image", value

    def Video(self, value):
        return "video", value

    def init(self, project, name=None, space_id=None, config=None):
        self.started.append((project, name, space_id, config))
        return types.SimpleNamespace(
            log=lambda metrics, step=None: self.log.append((step, metrics)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )


def test_trackio_is_told_everything(data, tmp_path, monkeypatch):
    trackio = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    fit(data, TrackioLogger("first", save_dir=str(tmp_path)))
    ((project, name, space, config),) = trackio.started
    assert (project, name, space) == ("jepakit", "first", None)
    assert config["config"]["latent_dim"] == LEWM["latent_dim"]
    probes = tmp_path / "first" / "probes"
    assert (2, {"probe/looking/colour": 0.5, "probe/looking/objects/auroc": 0.75}) in trackio.log
    assert (2, {"picture/looking": ("image", str(probes / "looking.png"))}) in trackio.log
    assert (2, {"video/looking_ahead": ("video", str(probes / "looking_ahead.mp4"))}) in trackio.log
    assert json.loads((probes / "looking.json").read_text())["measured"][0]["values"]["colour"] == 0.5
    assert trackio.finished == 1


def test_trackio_that_is_not_there_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jepakit\[trackio\]'"):
        TrackioLogger("first")
