"""A short training of which every process writes into FOLDER/RANK.json what its callbacks say.

Under `python -m torch.distributed.run`. Arguments: MODE STORE FOLDER. Mode `probe`: a checkpoint and early stopping
watch a probe. Mode `estimate`: the run's duration is estimated, by clocks of which one is far ahead of the other.
"""

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from jepakit.callbacks import RunEstimate, run_estimate
from jepakit.callbacks.probe import Probe
from jepakit.datamodules import TwoRoom
from jepakit.zoo import LeWM
from jepakit.zoo.ranks import leave, ranks

SMALL = {
    **{"image_size": 32, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8, "projector_hidden": 12},
    **{"predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1, "directions": 8},
}


class Falling(Probe):
    """Better until the second epoch, then worse and worse."""

    name = "falling"
    found = iter([3.0, 1.0, 2.0, 4.0, 5.0])

    def measure(self, model, data, folder):
        return {"error": next(self.found)}


def fit(store, folder, callbacks):
    trainer = L.Trainer(
        **{"max_epochs": 5, "limit_train_batches": 2, "limit_val_batches": 0, "num_sanity_val_steps": 0},
        **{"accelerator": "cpu", "devices": ranks()[1], "strategy": "ddp", "logger": False},
        **{"enable_progress_bar": False, "enable_model_summary": False},
        default_root_dir=folder,
        callbacks=callbacks,
    )
    torch.manual_seed(0)
    trainer.fit(LeWM(SMALL), TwoRoom(store, image_size=32, batch_size=16))
    return trainer


def probe(store, folder):
    watched = "probe/falling/error"
    best, stop = ModelCheckpoint(folder / "best", monitor=watched), EarlyStopping(watched, patience=2)
    trainer = fit(store, folder, [Falling(every_n_epochs=1), stop, best])
    return {"best": best.best_model_score.item(), "path": best.best_model_path, "epochs": trainer.current_epoch}


def estimate(store, folder):
    timed, passes = run_estimate._timed, []

    def by_own_clock(model, batch, windows):
        timed(model, batch, windows)
        passes.append(windows)
        return [0.1, 1.7][ranks()[0]]

    run_estimate._timed = by_own_clock
    said = RunEstimate()
    fit(store, folder, [said])
    return {"passes": passes, "seconds_per_step": said.estimate.seconds_per_step}


def main(mode, store, folder):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))  # for what never comes
    found = {"probe": probe, "estimate": estimate}[mode](store, folder)
    (folder / f"{ranks()[0]}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    leave()
