"""Train with two processes and write down the windows that each of them saw. Arguments: STORE FOLDER."""

import json
import sys
from pathlib import Path

import lightning as L
import torch

from jepakit.datamodules import EpisodeDataModule


def windows_of(batch):
    return list(zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True))


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {"train": [], "val": [], "predict": []}

    def on_train_epoch_start(self):
        self.seen["train"].append([])

    def training_step(self, batch):
        self.seen["train"][-1].append(windows_of(batch))
        return self.weight.sum()

    def validation_step(self, batch):
        self.seen["val"].append(windows_of(batch))

    def predict_step(self, batch):
        self.seen["predict"].append(windows_of(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(store, folder):
    torch.set_num_threads(1)
    module = Recorder()
    data = EpisodeDataModule(store, image_size=32, batch_size=32)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        check_val_every_n_epoch=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    found = {"sampler": type(trainer.train_dataloader.sampler).__name__}
    trainer.predict(module, data, return_predictions=False)
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps({**found, **module.seen}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
