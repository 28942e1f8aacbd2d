"""Compiled training: the numbers of plain training, and nothing left behind."""

import lightning as L
import pytest
import torch
from runs import SMALL, fit

from jepakit.callbacks import Compile
from jepakit.zoo import LeWM

# torch warns of its own code while it compiles, which pytest would make an error of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be instantiated"),
]


class Losses(L.Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))


def make():
    torch.manual_seed(0)
    return LeWM(config={**SMALL, "dropout": 0.0}, optimizer={"lr": 1e-2})


def test_training_and_validation_run_compiled_and_give_the_same_losses(tworoom_store, tmp_path):
    operations = 0

    def backend(graph, inputs):
        def run(*arguments):
            nonlocal operations
            operations += 1
            return graph(*arguments)

        return run

    plain, compiled = Losses(), Losses()
    fit(tworoom_store, tmp_path / "plain", [plain], module=make())
    module = fit(tworoom_store, tmp_path / "compiled", [Compile(backend=backend), compiled], module=make())
    assert operations >= 9  # one graph per step at least
    assert len(plain.found) == 9
    assert compiled.found == pytest.approx(plain.found, rel=1e-4)
    assert "losses" not in vars(module.model)


def test_a_failed_training_leaves_the_model_as_it_was(tworoom_store, tmp_path):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    module = make()
    with pytest.raises(Exception, match="no compiler here"):
        fit(tworoom_store, tmp_path, [Compile(backend=backend)], module=module)
    assert "losses" not in vars(module.model)
