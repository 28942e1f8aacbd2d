"""Do the slots find the objects? Masks of an object-centric model against the true ones, as numbers and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from jepakit.callbacks.folder import run_folder
from jepakit.zoo.base import WorldModel
from jepakit.zoo.layers.slot_attention import SlotAutoencoder
from jepakit.zoo.metrics import foreground_ari, mean_best_overlap
from jepakit.zoo.module import WorldModelModule

_FRAMES = 6  # at most, in the picture


class ObjectDiscovery(L.Callback):
    """At validation, log FG-ARI and mBO of whole windows as ``val/fg_ari`` and ``val/mbo``, and draw a few.

    For models with a ``SlotAutoencoder`` and data that bring the column ``mask``; the first ``max_batches`` batches
    count. Writes ``pictures/objects.png`` into the run's folder: ``clips`` windows with their true masks, found masks
    and reconstruction.
    """

    def __init__(self, max_batches: int = 4, clips: int = 3) -> None:
        self.max_batches = max_batches
        self.clips = clips
        self._folder = Path()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be measured, before training starts.

        Raises ``ValueError`` for a model without a ``SlotAutoencoder`` or data without masks.
        """
        autoencoder_of(pl_module)
        self._folder = run_folder(trainer)
        columns = getattr(getattr(trainer, "datamodule", None), "columns", None)
        if columns is not None and "mask" not in columns:
            raise ValueError(
                f"ObjectDiscovery: found data columns {list(columns)}, expected 'mask' among them: set data.columns "
                "to [mask] (data of a scene have it) or leave the callback out"
            )

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 (Lightning's)
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Find, compare, and draw the first batch."""
        if batch_idx >= self.max_batches:
            return
        assert isinstance(pl_module, WorldModelModule)
        frames = pl_module.model.normalise_frames(batch["pixels"])
        autoencoder = autoencoder_of(pl_module)
        reconstruction, masks = autoencoder.decode(autoencoder.encode(frames))
        found = masks.argmax(dim=2)
        scores = {
            "val/fg_ari": foreground_ari(batch["mask"], found).nanmean(),
            "val/mbo": mean_best_overlap(batch["mask"], found).nanmean(),
        }
        pl_module.log_dict(scores, batch_size=len(found), sync_dist=True)
        if batch_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking:
            folder = self._folder / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            draw_objects(
                batch["pixels"][: self.clips],
                batch["mask"][: self.clips],
                found[: self.clips],
                restore_pixels(pl_module.model, reconstruction[: self.clips]),
                folder / "objects.png",
            )


def autoencoder_of(module: torch.nn.Module) -> SlotAutoencoder:
    """Return the ``SlotAutoencoder`` inside ``module``; raises ``ValueError`` where there is none."""
    for part in module.modules():
        if isinstance(part, SlotAutoencoder):
            return part
    raise ValueError(
        f"ObjectDiscovery: found {type(module).__name__} without a SlotAutoencoder, expected a model that finds slots "
        "in pixels, such as CJEPA with the encoder 'slot_attention'; leave the callback out"
    )


def draw_objects(pixels: Tensor, true: Tensor, found: Tensor, reconstruction: Tensor, file: Path) -> None:
    """Four rows per clip: frames, true masks, found masks, reconstruction; colours of masks are arbitrary.

    Takes frames and reconstruction (B, T, h, w, 3) uint8 and label maps (B, T, h, w); of long clips some frames are
    left out.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    palette = torch.from_numpy(matplotlib.colormaps["tab10"](range(10), bytes=True)[:, :3])
    true_colours = palette[(true.cpu().long() - 1) % 10] * (true.cpu() > 0).unsqueeze(-1)
    rows = [pixels.cpu(), true_colours, palette[found.cpu() % 10], reconstruction.cpu()]
    every = slice(None, None, -(-pixels.shape[1] // _FRAMES))
    strips = torch.stack([torch.cat(list(row[:, every].unbind(1)), dim=2) for row in rows], dim=1)
    clips, _, height, width = strips.shape[:4]
    figure = Figure(figsize=(1 + 1.3 * width / height, 4 * 1.3 * clips), layout="constrained")
    FigureCanvasAgg(figure)
    for index, strip in enumerate(strips):
        axis = figure.add_subplot(clips, 1, index + 1)
        axis.imshow(strip.flatten(0, 1).numpy(), interpolation="nearest")
        axis.set_yticks([(row + 0.5) * height for row in range(4)], ["frame", "true", "found", "rebuilt"])
        axis.set_xticks([])
    figure.savefig(file, dpi=100)


def restore_pixels(model: WorldModel, frames: Tensor) -> Tensor:
    """Undo ``model.normalise_frames``: (B, T, 3, h, w) to (B, T, h, w, 3) uint8."""
    ends = torch.tensor([0, 255], dtype=torch.uint8, device=frames.device).view(2, 1, 1, 1, 1).expand(-1, -1, -1, -1, 3)
    black, white = model.normalise_frames(ends).unbind(0)
    levels = (frames - black) / (white - black) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
