"""Trainings that end before their time go on exactly where they stopped."""

import os
import signal

import lightning as L
import pytest
import torch
from runs import fit, same

from jepakit.callbacks import GracefulStop
from jepakit.callbacks.graceful_stop import STOPPED

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]


class At(L.Callback):
    """Does something once, in a hook after so many steps."""

    def __init__(self, hook, steps, action):
        def called(trainer, *_):
            if trainer.global_step == steps and not self.done:
                self.done = True
                action()

        self.done = False
        setattr(self, hook, called)


def interrupt(times=1):
    def action():
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

    return action


def fail():
    raise OSError("the disk of the data is gone")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(tworoom_store, tmp_path_factory):
    return fit(tworoom_store, tmp_path_factory.mktemp("whole"), [GracefulStop()])


@pytest.mark.parametrize(
    ("hook", "steps", "action", "code", "saved"),
    [
        ("on_train_batch_start", 2, interrupt(), 1, 3),  # in the middle of an epoch; Lightning's code, ours is 130
        ("on_train_batch_start", 3, interrupt(), 1, 4),  # in its last step
        ("on_train_batch_start", 5, terminate, 143, 6),
        ("on_validation_batch_start", 4, terminate, 143, 5),
    ],
)
def test_a_stopped_training_goes_on_as_if_it_had_not(whole, tworoom_store, tmp_path, hook, steps, action, code, saved):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        fit(tworoom_store, tmp_path, [At(hook, steps, action), GracefulStop()])
    assert stop.value.code == code
    assert signal.getsignal(signal.SIGINT) is handler
    file = tmp_path / "checkpoints" / STOPPED
    assert torch.load(file, weights_only=False)["global_step"] == saved
    resumed = fit(tworoom_store, tmp_path, [GracefulStop()], resume=file)
    assert same(resumed, whole)
    assert not file.exists()


def test_an_error_between_two_steps_loses_none(whole, tworoom_store, tmp_path):
    with pytest.raises(OSError, match="the disk of the data is gone"):
        fit(tworoom_store, tmp_path, [At("on_train_batch_end", 6, fail), GracefulStop()])
    resumed = fit(tworoom_store, tmp_path, [GracefulStop()], resume=tmp_path / "checkpoints" / STOPPED)
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("hook", "action", "error"),
    [
        ("on_before_backward", fail, OSError),
        ("on_train_batch_start", interrupt(2), SystemExit),
        ("on_validation_start", fail, OSError),
    ],
)
def test_half_a_step_is_not_saved(tworoom_store, tmp_path, hook, action, error):
    with pytest.raises(error):
        fit(tworoom_store, tmp_path, [At(hook, 4, action), GracefulStop()])
    assert not (tmp_path / "checkpoints" / STOPPED).exists()


def test_nothing_is_saved_where_checkpoints_are_not_wanted(tworoom_store, tmp_path):
    with pytest.raises(OSError, match="gone"):
        fit(tworoom_store, tmp_path, [At("on_train_batch_end", 1, fail), GracefulStop()], fast_dev_run=True)
    assert not list(tmp_path.rglob("*.ckpt"))


class FailsAfterwards(L.Callback):
    def on_fit_end(self, trainer, pl_module):
        raise OSError("the Hub is gone")


def test_what_fails_after_the_training_does_not_make_it_unfinished(tworoom_store, tmp_path, capfd):
    with pytest.raises(OSError, match="the Hub is gone"):
        fit(tworoom_store, tmp_path, [FailsAfterwards(), GracefulStop()])
    assert not (tmp_path / "checkpoints" / STOPPED).exists()
    assert "Stopped after" not in capfd.readouterr().err
