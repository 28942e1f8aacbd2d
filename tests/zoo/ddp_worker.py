"""Trains every family for 20 steps on batches that all processes share; FOLDER/losses.json gets the batches' losses.

In float64: what is zero in exact arithmetic, such as the gradient of a bias before a batch norm, AdamW divides by its
own size, so that rounding decides where it goes. Alone, or under `python -m torch.distributed.run`. Arguments: STORE
FOLDER, and `dies` for a run whose second process kills itself, or `sharded` for one whose processes share parameters;
that is in float32, which is all that Lightning's strategy for it can do, and of families without such gradients. With
`leaves` nothing is trained: the processes leave while much of what they sent is still under way.
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from jepakit.datamodules import TwoRoom
from jepakit.zoo import CJEPA, DINOWM, PLDM, VJEPA, LeWM, save_pretrained
from jepakit.zoo.ranks import average, leave, ranks

STEPS, BATCH = 20, 16
SHARDED = ("fastlewm", "cjepa", "vjepa")
CNN = {
    "image_size": 32,
    "dropout": 0.0,
    "encoder": "cnn",
    "cnn_channels": [4, 6],
    "latent_dim": 8,
    "projector_hidden": 12,
}
SMALL = {"predictor_width": 8, "predictor_mlp": 16, "predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4}
SEEN = {"cnn_channels": CNN["cnn_channels"], "encoder_size": 32}
VIT = {"patch_size": 8, "vit_width": 12, "vit_depth": 1, "vit_heads": 3, "vit_mlp": 16}


def families(folder):
    """Tiny models with batch norms, masks and two phases, but without dropout, whose draws no rank shares."""
    frozen = folder / f"frozen{ranks()[0]}"
    torch.manual_seed(0)
    save_pretrained(LeWM({**CNN, **SMALL, "directions": 8}).model, frozen)
    calm = {"image_size": 32, "dropout": 0.0}
    pixels = {key: value for key, value in SMALL.items() if key != "predictor_width"}
    slots = {**calm, **pixels, "slots": 3, "slot_dim": 8, "slot_channels": 4, "slot_hidden": 8, "encoder_steps": 8}
    masked = {**calm, **SMALL, **VIT, "encoder_steps": 8}
    masked |= {"mask_predictor_width": 12, "mask_predictor_depth": 1, "mask_predictor_heads": 2}
    return {
        "lewm": lambda: LeWM({**CNN, **SMALL, "directions": 8}),
        "fastlewm": lambda: LeWM({**CNN, **SMALL, "directions": 8, "prefix": 2, "history": 1}),
        "pldm": lambda: PLDM({**CNN, **SMALL}),
        "dinowm": lambda: DINOWM({**calm, **SMALL, "encoder": "cnn", **SEEN}, encoder_weights=str(frozen)),
        "cjepa": lambda: CJEPA({**slots, "mask_count": (0, 2)}),
        "vjepa": lambda: VJEPA(masked),
    }


class Curve(L.Callback):
    """The loss of the whole batch at every step."""

    def __init__(self, dies):
        self.losses = []
        self.dies = dies

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.dies and ranks()[0] == 1 and batch_idx == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        self.losses.append(average(outputs["loss"].detach()).item())


def train(build, store, mode):
    """Return the curve of one family."""
    torch.manual_seed(1)
    module, curve = build(), Curve(mode == "dies")
    module.optimizer_config = type(module.optimizer_config)(lr=3e-3)
    config = module.model.config
    strategy = "ddp_find_unused_parameters_true" if config.pretrain_steps else "ddp"
    if mode == "sharded":
        strategy = ModelParallelStrategy(ranks()[1], tensor_parallel_size=1, save_distributed_checkpoint=False)
    windows = {"history": config.history, "predictions": config.predictions}
    data = TwoRoom(store, image_size=32, batch_size=BATCH // ranks()[1], **windows)
    trainer = L.Trainer(
        max_steps=STEPS,
        precision="32-true" if mode == "sharded" else "64-true",
        accelerator="cpu",
        devices=ranks()[1],
        strategy=strategy if ranks()[1] > 1 else "auto",
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[curve],
    )
    trainer.fit(module, data)
    return curve.losses


def send_much():
    """Sums of 4,000 tensors of which half are waited for and none is kept."""
    sent = [torch.distributed.all_reduce(torch.zeros(8), async_op=True) for _ in range(4000)]
    sent[len(sent) // 2].wait()


def main(store, folder, mode):
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if torch.distributed.is_torchelastic_launched():
        torch.distributed.init_process_group("gloo")
    if mode == "leaves":
        send_much()
        return
    chosen = {name: build for name, build in families(folder).items() if mode != "sharded" or name in SHARDED}
    found = {name: train(build, store, mode) for name, build in chosen.items()}
    if ranks()[0] == 0:
        (folder / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "".join(sys.argv[3:]))
    leave()
