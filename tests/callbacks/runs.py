"""Short trainings of a tiny LeWM with dropout on generated data, and what they end with."""

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from jepakit.datamodules import TwoRoom
from jepakit.zoo import LeWM

SMALL = {
    **{"image_size": 32, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8, "projector_hidden": 20},
    **{"action_hidden": 14, "predictor_width": 12, "predictor_depth": 1, "predictor_heads": 2},
    **{"predictor_head_dim": 4, "predictor_mlp": 16, "dropout": 0.2},
}


def make(lr=1e-2):
    torch.manual_seed(0)
    return LeWM(config=SMALL, optimizer={"lr": lr})


def fit(store, folder, callbacks, *, module=None, resume=None, steps=9, **options):
    """Train ``steps`` steps, four to an epoch; returns the module and its trainer, which may have raised."""
    module = module or make()
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    short = {"limit_train_batches": 4, "limit_val_batches": 2, "num_sanity_val_steps": 0}
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        callbacks=[*callbacks, ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True)],
        **{**settings, **short, **options},
    )
    data = TwoRoom(str(store), image_size=32, batch_size=4, val_share=0.3, test_share=0.2)
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    return module


def same(one, other):
    """Whether all weights and running statistics are equal, bit for bit."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(value, found) for (name, value), (again, found) in pairs)
