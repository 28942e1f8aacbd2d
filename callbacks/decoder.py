"""Pictures of what a model's latents hold: frames decoded from them, real and imagined.

Shape letters: B windows, T frames, F frames or latents fitted on, N latent tokens per frame, D latent width, A
action-block width, h, w picture size.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jepakit.callbacks.frames import draw_frames
from jepakit.callbacks.probe import Probe
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.tasks import draw_windows
from jepakit.datamodules.windows import WindowSpec
from jepakit.zoo.base import WorldModel
from jepakit.zoo.layers.decoders import PictureDecoder, picture_decoder

if TYPE_CHECKING:
    from PIL import Image

Picture = NDArray[np.uint8]

_BATCH = 32
_LEARNING_RATE = 1e-3
_FRAMES_PER_SECOND = 4  # of the video; a block of actions is a frame


class DecoderProbe(Probe):
    """Fit a small decoder on frozen latents, and show what they hold and what the model imagines.

    The decoder is trained for ``steps`` steps of 32 frames, of ``train_frames`` drawn from the training episodes.
    ``decoder.png`` and ``decoder.mp4`` show, for ``windows`` windows of validation episodes, the real frames, those
    decoded from their latents, and what the model imagines from the first of them on along ``blocks`` blocks of the
    same actions. Reported: mean squared error, of pixels in [0, 1], of the ``reconstructed`` frames, of the
    ``imagined`` ones after the first, and of the mean training frame, ``mean_frame``.

    A blurred picture may be the decoder's fault; that something is drawn says that it is in the latents. Models of
    slots have decoders of their own.
    """

    name: ClassVar[str] = "decoder"

    def __init__(
        self, every_n_epochs: int = 0, windows: int = 4, blocks: int = 8, train_frames: int = 2000, steps: int = 600
    ) -> None:
        super().__init__(every_n_epochs)
        self.require(least=1, windows=windows, blocks=blocks, train_frames=train_frames, steps=steps)
        self.windows = windows
        self.blocks = blocks
        self.train_frames = train_frames
        self.steps = steps

    def check(self, model: WorldModel) -> None:
        """Refuse models whose latents are not a picture's."""
        if model.follows_objects:
            raise ValueError(
                f"DecoderProbe: found {type(model).__name__}, expected a world model whose latents are one vector or a "
                "grid of patches; remove the callback"
            )

    def measure(self, model: WorldModel, data: EpisodeDataModule, folder: Path) -> dict[str, float]:
        """See the class; draws ``decoder.png`` and ``decoder.mp4``."""
        known = draw_frames(data, "train", count=self.train_frames)
        latents = torch.from_numpy(known.latents(model)).to(model.action_mean.device)
        decoder = fit_decoder(latents, torch.from_numpy(known.columns["pixels"]), steps=self.steps)
        window = WindowSpec(history=1, predictions=self.blocks, frame_skip=model.config.frame_skip)
        drawn = draw_windows(data, window, count=self.windows)
        rows = picture_rows(model, decoder, {name: torch.from_numpy(array) for name, array in drawn.items()})
        draw_strip(rows, folder / "decoder.png")
        write_video(rows, folder / "decoder.mp4")
        background = _frames(decoder.background.detach(), 1)
        return {
            "reconstructed/mse": _error(rows["reconstructed"], rows["real"]),
            "imagined/mse": _error(rows["imagined"][:, 1:], rows["real"][:, 1:]),
            "mean_frame/mse": _error(background, rows["real"]),
        }


def fit_decoder(latents: Tensor, pixels: Tensor, *, steps: int) -> PictureDecoder:
    """Train a decoder from latents (F, N, D) to frames (F, h, w, 3) uint8, on the latents' device."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.inference_mode(False):
        torch.manual_seed(0)
        latents = latents.clone()
        decoder = picture_decoder(tokens=latents.shape[1], width=latents.shape[2], image_size=pixels.shape[1])
        background = pixels.float().mean(dim=0) / 255
        decoder.start_from(background.permute(2, 0, 1).unsqueeze(0))
        decoder.to(latents.device)
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=_LEARNING_RATE)
        for _ in range(steps):
            rows = torch.randint(len(latents), (_BATCH,))
            target = pixels[rows].permute(0, 3, 1, 2).to(latents.device).float() / 255
            loss = F.mse_loss(decoder(latents[rows]), target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return decoder.eval()


def picture_rows(model: WorldModel, decoder: nn.Module, windows: Mapping[str, Tensor]) -> dict[str, Picture]:
    """The rows of the strip by name, (B, T, h, w, 3) uint8 each; ``windows`` hold pixels (B, T, h, w, 3).

    ``imagined`` starts from the first frame's latents and follows the window's actions (B, T, A).
    """
    with torch.inference_mode():
        on_device = {name: value.to(model.action_mean.device) for name, value in windows.items()}
        latents = model.encode(on_device)
        following = on_device["action"][:, :-1].unsqueeze(1)
        imagined = model.rollout(latents[:, :1], following[:, 0, :0], following).squeeze(1)
        reconstructed, rest = (_frames(decoder(z.float().flatten(0, 1)), len(z)) for z in (latents, imagined))
    return {
        "real": windows["pixels"].numpy(),
        "reconstructed": reconstructed,
        "imagined": np.concatenate([reconstructed[:, :1], rest], axis=1),
    }


def draw_strip(rows: Mapping[str, Picture], file: Path) -> None:
    """Write rows of frames (B, T, h, w, 3), windows below each other, frames at least 96 pixels wide."""
    _sheet(rows, across=1).save(file)


def write_video(rows: Mapping[str, Picture], file: Path) -> None:
    """Write rows of frames (B, T, h, w, 3) as a video (H.264) of T frames, windows side by side."""
    import av

    count = next(iter(rows.values())).shape[1]
    stills = ({name: pictures[:, [frame]] for name, pictures in rows.items()} for frame in range(count))
    sheets = [_sheet(still, across=len(still["real"])) for still in stills]
    width, height = (size // 2 * 2 for size in sheets[0].size)  # the format halves the resolution of colours
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=_FRAMES_PER_SECOND, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for sheet in sheets:
            pixels = np.asarray(sheet.crop((0, 0, width, height)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _sheet(rows: Mapping[str, Picture], *, across: int, least_size: int = 96) -> Image.Image:
    """Draw windows, each a block of rows, ``across`` of them side by side."""
    from PIL import Image, ImageDraw

    margin, gap = 96, 12
    windows, frames, size = next(iter(rows.values())).shape[:3]
    size *= -(-least_size // size)
    cell = size + 2
    width, height = frames * cell + gap, len(rows) * cell + gap
    sheet = Image.new("RGB", (margin + across * width, -(-windows // across) * height), "white")
    for (row, (name, pictures)), window in itertools.product(enumerate(rows.items()), range(windows)):
        top = window // across * height + row * cell
        ImageDraw.Draw(sheet).text((4, top + size // 2), name, fill="black")
        for frame in range(frames):
            picture = Image.fromarray(pictures[window, frame]).resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(picture, (margin + window % across * width + frame * cell, top))
    return sheet


def _frames(pictures: Tensor, windows: int) -> Picture:
    """Pictures (B · T, 3, h, w) in about [0, 1] to frames (B, T, h, w, 3) uint8."""
    frames = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    found: Picture = frames.reshape(windows, -1, *frames.shape[1:]).cpu().numpy()
    return found


def _error(frames: Picture, real: Picture) -> float:
    return float(np.square((frames.astype(np.float32) - real) / 255).mean())
