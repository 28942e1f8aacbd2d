"""The guard against numerical faults: silent where there are none, and no trace of a faulty step where there is one."""

import re
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from runs import fit, make, same

from jepakit.callbacks import GracefulStop, NumericalGuard
from jepakit.callbacks.graceful_stop import STOPPED
from jepakit.callbacks.numerical_guard import FIRST_STEPS, NumericalFault

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]
NAN, INFINITE = float("nan"), float("inf")


class Poison(L.Callback):
    """Puts a number into the actions of the second window of some batches; remembers its place and the weights."""

    def __init__(self, steps, number=NAN):
        self.steps, self.number = steps, number
        self.windows, self.before = [], None

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step in self.steps:
            batch["action"][1, 2] = self.number
            self.windows.append((int(batch["episode"][1]), int(batch["start"][1])))
            self.before = {name: value.clone() for name, value in module.state_dict().items()}


class Scale(L.Callback):
    """Multiplies the weights after some step, or the gradients in it."""

    def __init__(self, step, *, weights=1.0, gradients=1.0):
        self.step, self.weights, self.gradients = step, weights, gradients

    @torch.no_grad()
    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.global_step == self.step:
            for parameter in module.parameters():
                parameter.mul_(self.weights)

    def on_after_backward(self, trainer, module):
        if trainer.global_step == self.step:
            for parameter in module.parameters():
                parameter.grad.mul_(self.gradients)


def test_a_healthy_training_is_left_alone(tworoom_store, tmp_path):
    guard = NumericalGuard("skip")
    assert same(fit(tworoom_store, tmp_path / "a", [guard]), fit(tworoom_store, tmp_path / "b", []))
    assert guard.skipped == 0


@pytest.mark.parametrize("number", [NAN, INFINITE])
def test_a_bad_number_stops_the_run_before_it_does_harm(tworoom_store, tmp_path, number):
    poison, module = Poison([5], number), make()
    with pytest.raises(NumericalFault) as fault:
        fit(tworoom_store, tmp_path, [poison, NumericalGuard(), GracefulStop()], module=module)
    [(episode, start)] = poison.windows
    found = re.fullmatch(r"step 6: the loss is nan; (.*); the step was undone\. .*", str(fault.value)).group(1)
    assert found == f"NaN or infinity in 'action' of episode {episode} from step {start}"
    saved = torch.load(tmp_path / "checkpoints" / STOPPED, weights_only=False)["state_dict"]
    for name, value in poison.before.items():
        assert torch.equal(module.state_dict()[name], value), name
        assert torch.equal(saved[name], value), name
    resumed = fit(tworoom_store, tmp_path, [NumericalGuard()], resume=tmp_path / "checkpoints" / STOPPED)
    assert all(value.isfinite().all() for value in resumed.parameters())


def test_faulty_steps_are_skipped_and_counted(tworoom_store, tmp_path):
    poison, guard = Poison([2, 5]), NumericalGuard("skip")
    logger = CSVLogger(tmp_path, name="log", version="")
    with pytest.warns(UserWarning, match="the step was undone") as caught:
        module = fit(tworoom_store, tmp_path, [poison, guard], logger=logger, log_every_n_steps=1)
    warned = [str(entry.message) for entry in caught if "undone" in str(entry.message)]
    assert [message.rpartition(". ")[2] for message in warned] == ["1 skipped so far", "2 skipped so far"]
    for (episode, start), message in zip(poison.windows, warned, strict=True):
        assert f"episode {episode} from step {start}" in message
    assert guard.skipped == 2
    assert all(value.isfinite().all() for value in module.state_dict().values() if value.is_floating_point())
    assert "guard/skipped" in (tmp_path / "log" / "metrics.csv").read_text()


@pytest.mark.filterwarnings("ignore:step")
def test_too_many_in_a_row_stop_the_run(tworoom_store, tmp_path):
    guard = NumericalGuard("skip", patience=2)
    with pytest.raises(NumericalFault, match="step 6: "):
        fit(tworoom_store, tmp_path, [Poison([0, 1, 3, 4, 5]), guard])
    assert guard.skipped == 5


def test_an_explosion_is_found_in_its_step(tworoom_store, tmp_path):
    step = FIRST_STEPS + 3
    with pytest.raises(
        NumericalFault, match=rf"step {step + 1}: the loss is .*, more than 100 times .* data are finite"
    ):
        fit(tworoom_store, tmp_path, [Scale(step, weights=100.0), NumericalGuard()], steps=40)


def test_a_diverging_learning_rate_is_found(tworoom_store, tmp_path):
    with pytest.raises(NumericalFault, match=r"step \d+: the loss is"):
        fit(tworoom_store, tmp_path, [NumericalGuard()], module=make(lr=1e6), steps=60)


def test_gradients_alone_may_be_faulty(tworoom_store, tmp_path):
    with pytest.raises(NumericalFault, match=r"step 3: the loss is .*, but the norm of its gradients is nan"):
        fit(tworoom_store, tmp_path, [Scale(2, gradients=NAN), NumericalGuard()])


def test_accumulated_batches_are_undone_together(tworoom_store, tmp_path):
    poison, guard = Poison([1]), NumericalGuard("skip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = fit(tworoom_store, tmp_path, [poison, guard], steps=4, accumulate_grad_batches=2)
    assert guard.skipped == 1
    assert all(value.isfinite().all() for value in module.state_dict().values() if value.is_floating_point())


@pytest.mark.filterwarnings("ignore:step")
def test_a_resumed_run_judges_as_if_never_stopped(tworoom_store, tmp_path):
    first, resumed, alone = (NumericalGuard("skip", explosion=1.001) for _ in range(3))
    options = {"steps": FIRST_STEPS + 4}
    fit(tworoom_store, tmp_path, [Poison([2]), first], steps=4)
    fit(tworoom_store, tmp_path, [resumed], resume=tmp_path / "checkpoints" / "last.ckpt", **options)
    fit(tworoom_store, tmp_path / "whole", [Poison([2]), alone], **options)
    assert resumed.state_dict() == alone.state_dict()
    assert resumed.state_dict()["skipped"] >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "ignore"}, "NumericalGuard.action: found 'ignore', expected 'stop' or 'skip'"),
        ({"explosion": 1.0}, "found explosion 1.0 and patience 10"),
        ({"patience": -1}, "found explosion 100.0 and patience -1"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NumericalGuard(**options)
