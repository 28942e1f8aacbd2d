"""Pictures of what a model's latents hold: frames decoded from them, real and imagined.

Shape letters: B batch, T frames, N latent tokens per frame, D latent width, A action-block width, h, w picture size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel
from jepakit.zoo.layers.decoders import picture_decoder
from jepakit.zoo.module import WorldModelModule

Picture = NDArray[np.uint8]


class DecoderProbe(L.Callback):
    """Train a small decoder beside the model, on its detached latents, and draw what it sees and what it imagines.

    The model cannot tell: no gradient reaches it, no random number is taken from it, the optimiser is the decoder's
    own. Each step trains on ``frames`` frames of the batch. Every ``every_n_epochs`` epochs (0: only at the end) and at
    the end, ``pictures/decoder_….png`` in the run's folder shows, for the first ``windows`` validation windows, the
    real frames, their reconstruction, and what the model imagines from the first frame on along the same actions.
    Models of slots have decoders of their own.
    """

    def __init__(self, every_n_epochs: int = 10, windows: int = 4, frames: int = 32, lr: float = 1e-3) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 0),
            ("windows", windows, 1),
            ("frames", frames, 1),
        ):
            if value < least:
                raise ValueError(f"DecoderProbe.{name}: found {value}, expected at least {least}")
        self.every_n_epochs = every_n_epochs
        self.windows = windows
        self.frames = frames
        self.lr = lr
        self.decoder: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._restored: dict[str, Any] | None = None
        self._shown: dict[str, Tensor] | None = None

    # -- training the decoder --------------------------------------------------------------------------------------
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse models whose latents are not a picture's."""
        model = getattr(pl_module, "model", None)
        if not isinstance(model, WorldModel) or model.follows_objects:
            raise ValueError(
                f"DecoderProbe: found {type(pl_module).__name__}, expected a world model whose latents are one vector "
                "or a grid of patches; remove the callback"
            )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 (what Lightning passes)
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """One step of the decoder."""
        if not trainer.is_global_zero or not isinstance(pl_module, WorldModelModule):
            return
        latents = outputs["outputs"]["latents"]
        windows = -(-self.frames // latents.shape[1])
        chosen = {name: value[:windows] for name, value in batch.items()}
        if self._shown is None:  # no validation, no sanity check
            self._keep(trainer, chosen)
        target = _scaled(_pixels(trainer, chosen).to(latents.device)).flatten(0, 1)[: self.frames]
        decoder, optimizer = self._ready(latents, target)
        with torch.enable_grad():
            loss = F.mse_loss(decoder(latents[:windows].float().flatten(0, 1)[: self.frames]), target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        optimizer.step()
        pl_module.log("train/decoder", loss.detach(), batch_size=len(target), rank_zero_only=True)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 (what Lightning passes)
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the first windows: these are drawn."""
        if self._shown is None and trainer.is_global_zero:
            self._keep(trainer, batch)

    def _keep(self, trainer: L.Trainer, batch: Mapping[str, Tensor]) -> None:
        some = {name: value[: self.windows].clone() for name, value in batch.items()}
        self._shown = {**some, "pixels": _pixels(trainer, some)}

    def _ready(self, latents: Tensor, pictures: Tensor) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The decoder and its optimiser, made for the first ``latents`` (B, T, N, D) without touching random states."""
        if self.decoder is None or self._optimizer is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                decoder = picture_decoder(
                    tokens=latents.shape[2], width=latents.shape[3], image_size=pictures.shape[-1]
                )
            decoder.start_from(pictures.cpu())
            self.decoder = decoder.to(latents.device)
            self._optimizer = torch.optim.AdamW(self.decoder.parameters(), lr=self.lr)
            if self._restored is not None:
                self.decoder.load_state_dict(self._restored["decoder"])
                self._optimizer.load_state_dict(self._restored["optimizer"])
        return self.decoder, self._optimizer

    def state_dict(self) -> dict[str, Any]:
        """The decoder and its optimiser, for Lightning's checkpoint."""
        if self.decoder is None or self._optimizer is None:
            return self._restored or {}
        return {"decoder": self.decoder.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with a checkpoint's decoder, once the first batch comes."""
        self._restored = state_dict or None

    # -- pictures --------------------------------------------------------------------------------------------------
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw every ``every_n_epochs`` epochs."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, f"decoder_{trainer.current_epoch + 1:04d}.png")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the final state."""
        self._draw(trainer, pl_module, "decoder.png")

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str) -> None:
        if self.decoder is None or self._shown is None or not isinstance(pl_module, WorldModelModule):
            return
        decoder = self.decoder.to(pl_module.device)  # which is the CPU again after training
        rows = picture_rows(pl_module.model, decoder, self._shown)
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        draw_strip(rows, folder / name)


def picture_rows(model: WorldModel, decoder: nn.Module, windows: Mapping[str, Tensor]) -> dict[str, Picture]:
    """The rows of the strip by name, (B, T, h, w, 3) uint8 each; ``windows`` hold pixels (B, T, h, w, 3).

    ``imagined`` starts from the first frame's latents and follows the window's actions (B, T, A).
    """
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        on_device = {name: value.to(model.action_mean.device) for name, value in windows.items()}
        latents = model.encode(on_device)
        following = on_device["action"][:, :-1].unsqueeze(1)
        imagined = model.rollout(latents[:, :1], following[:, 0, :0], following).squeeze(1)
        decoded = [_unscaled(decoder(z.float().flatten(0, 1)), len(z)) for z in (latents, imagined)]
    model.train(was_training)
    reconstructed, rest = decoded
    return {
        "real": windows["pixels"].cpu().numpy(),
        "reconstructed": reconstructed,
        "imagined": np.concatenate([reconstructed[:, :1], rest], axis=1),
    }


def draw_strip(rows: Mapping[str, Picture], file: Path, *, least_size: int = 96) -> None:
    """Write rows of frames (B, T, h, w, 3) below each other, windows side by side, frames at least ``least_size``."""
    from PIL import Image, ImageDraw

    margin, gap = 96, 12
    size = next(iter(rows.values())).shape[2]
    size *= -(-least_size // size)
    windows, frames = next(iter(rows.values())).shape[:2]
    sheet = Image.new("RGB", (margin + windows * (frames * size + gap), len(rows) * (size + 2)), "white")
    for row, (name, pictures) in enumerate(rows.items()):
        ImageDraw.Draw(sheet).text((4, row * (size + 2) + size // 2), name, fill="black")
        for window, frame in np.ndindex(windows, frames):
            picture = Image.fromarray(pictures[window, frame]).resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + window * (frames * size + gap) + frame * size, row * (size + 2)))
    sheet.save(file)


def _pixels(trainer: L.Trainer, batch: Mapping[str, Tensor]) -> Tensor:
    """Frames (B, T, h, w, 3) of the windows of a batch; from the data set where it brings features instead."""
    if "pixels" in batch:
        return batch["pixels"]
    data = trainer.datamodule  # type: ignore[attr-defined]
    source, skip, frames = data.source, data.window.frame_skip, batch["action"].shape[1]
    first = source.offsets[batch["episode"].cpu().numpy()] + batch["start"].cpu().numpy()
    rows = (first[:, None] + skip * np.arange(frames)).ravel()
    pixels = source.read("pixels", rows)
    return torch.from_numpy(pixels.reshape(len(first), frames, *pixels.shape[1:]))


def _scaled(pixels: Tensor) -> Tensor:
    """Frames (B, T, h, w, 3) uint8 to (B, T, 3, h, w) in [0, 1]."""
    return pixels.permute(0, 1, 4, 2, 3).float() / 255


def _unscaled(pictures: Tensor, windows: int) -> Picture:
    """Pictures (B · T, 3, h, w) in about [0, 1] to frames (B, T, h, w, 3) uint8."""
    frames = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    found: Picture = frames.reshape(windows, -1, *frames.shape[1:]).cpu().numpy()
    return found
