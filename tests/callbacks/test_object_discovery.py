"""Object discovery: the logged numbers, the picture, and what is refused."""

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from jepakit.callbacks import ObjectDiscovery
from jepakit.callbacks.object_discovery import draw_objects
from jepakit.zoo import LeWM, LeWMConfig, LeWMModel
from jepakit.zoo.layers.slot_attention import SlotAutoencoder
from jepakit.zoo.metrics import foreground_ari, mean_best_overlap
from jepakit.zoo.module import WorldModelModule

CONFIG = LeWMConfig(
    image_size=16,
    encoder="cnn",
    cnn_channels=(4, 8),
    latent_dim=8,
    projector_hidden=8,
    action_hidden=8,
    predictor_width=8,
    predictor_depth=1,
    predictor_heads=1,
    predictor_head_dim=8,
    predictor_mlp=8,
    directions=8,
)


class SlotModel(LeWMModel):
    """Any world model that has an autoencoder of slots in it."""

    def __init__(self):
        super().__init__(CONFIG)
        self.slots = SlotAutoencoder(image_size=16, slots=3, slot_dim=8, channels=4, hidden=8)


def batch(clips):
    generator = torch.Generator().manual_seed(clips)
    return {
        "pixels": torch.randint(0, 256, (clips, 4, 16, 16, 3), dtype=torch.uint8, generator=generator),
        "mask": torch.randint(0, 4, (clips, 4, 16, 16), dtype=torch.uint8, generator=generator),
        "action": torch.randn(clips, 4, 10, generator=generator),
    }


def validate(module, batches, tmp_path, **options):
    trainer = L.Trainer(
        callbacks=[ObjectDiscovery(**options)], default_root_dir=tmp_path, logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    return trainer.validate(module, loader, verbose=False)[0]


def test_it_logs_what_the_models_masks_score_over_whole_windows(tmp_path):
    torch.manual_seed(0)
    model = SlotModel()
    batches = [batch(4), batch(2), batch(3)]
    logged = validate(WorldModelModule(model, {}), batches, tmp_path, max_batches=2)
    scores = []
    with torch.no_grad():
        for each in batches[:2]:
            masks = model.slots.decode(model.slots.encode(model.normalise_frames(each["pixels"])))[1].argmax(dim=2)
            scores.append((foreground_ari(each["mask"], masks), mean_best_overlap(each["mask"], masks)))
    ari, overlap = (torch.cat(score).mean().item() for score in zip(*scores, strict=True))
    assert logged["val/fg_ari"] == pytest.approx(ari, abs=1e-6)
    assert logged["val/mbo"] == pytest.approx(overlap, abs=1e-6)
    assert (tmp_path / "pictures" / "objects.png").is_file()


def test_the_picture_has_a_row_for_each_kind(tmp_path):
    true = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    true[..., 4:12, 4:12] = 1
    grey = torch.full((1, 3, 16, 16, 3), 90, dtype=torch.uint8)
    draw_objects(grey, true, 1 - true.long(), grey + 100, tmp_path / "objects.png")
    picture = np.asarray(Image.open(tmp_path / "objects.png").convert("RGB")).astype(int)
    column = picture[:, picture.shape[1] // 2]  # through the middle of the squares
    shown = [
        tuple(colour) for index, colour in enumerate(column) if index == 0 or tuple(colour) != tuple(column[index - 1])
    ]
    order = [shown.index(colour) for colour in [(90, 90, 90), (31, 119, 180), (190, 190, 190)]]
    assert order == sorted(order)
    assert (0, 0, 0) in shown[order[0] : order[1]]  # the ground has no colour


def test_models_without_slots_and_data_without_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="LeWM without a SlotAutoencoder"):
        validate(LeWM(CONFIG), [batch(2)], tmp_path)

    class Data(L.LightningDataModule):
        columns = ("pixels_wrist",)

    trainer = L.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.datamodule = Data()
    with pytest.raises(ValueError, match=r"set data.columns to \[mask\]"):
        ObjectDiscovery().setup(trainer, WorldModelModule(SlotModel(), {}), "fit")
