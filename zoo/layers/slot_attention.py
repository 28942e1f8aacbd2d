"""Slot Attention (arXiv 2006.15055) over clips: slots that each stand for one object, found by reconstruction alone.

Shape letters: B clips, T frames, M pictures (B or B · T), N slots, D slot width, L positions of a g × g grid, C
channels, h, w picture size. Symbols as in the paper's algorithm 1: q, k, v projections.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from jepakit.zoo.config import require_multiple
from jepakit.zoo.layers.slot_decoders import PATCH, BroadcastDecoder, SoftPositions, start_lively
from jepakit.zoo.ranks import average
from jepakit.zoo.trainable import Losses

_EPSILON = 1e-8
_SHARPNESS = 4.0
_MEMORY = 100  # batches
_LEAST_SHARE = 1e-4  # of a clip's pixels: the slope of a square root is infinite at 0


class SlotAttention(nn.Module):
    """Slots compete for positions: softmax over slots, weighted mean over positions, GRU, MLP (algorithm 1).

    The paper's slots are what the GRU carries from iteration to iteration. They change with every iteration, also where
    nothing moves: those of a goal, encoded alone, are not those of the same picture at a clip's end. With ``seen`` the
    GRU carries a state that only says where to look, and a slot is what is seen there.
    """

    def __init__(self, width_in: int, slot_dim: int, *, hidden: int, seen: bool = False) -> None:
        super().__init__()
        self.seen = seen
        self.input_norm = nn.LayerNorm(width_in)
        self.slot_norm = nn.LayerNorm(slot_dim)
        self.to_q = nn.Linear(slot_dim, slot_dim, bias=False)
        self.to_kv = nn.Linear(width_in, 2 * slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_dim), nn.Linear(slot_dim, hidden), nn.ReLU(), nn.Linear(hidden, slot_dim)
        )
        self.apply(start_lively)
        with torch.no_grad():
            self.to_q.weight.mul_(_SHARPNESS)  # slots must differ from the start to become different

    def forward(
        self, inputs: Tensor, state: Tensor, *, iterations: int, learn_start: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Slots (M, N, D) and the state (M, N, D) that ``iterations`` make of ``state`` and inputs (M, L, C).

        With ``learn_start`` only the last iteration has gradients, and it hands them to ``state`` as if it had come to
        it unchanged: what slots start from is learned (BO-QSA, arXiv 2210.08990, section 3.2).
        """
        k, v = self.to_kv(self.input_norm(inputs)).chunk(2, dim=-1)
        k = k * k.shape[-1] ** -0.5
        start, taught = state, learn_start and self.training and torch.is_grad_enabled()
        seen = state
        for iteration in range(iterations):
            if taught and iteration == iterations - 1:
                state = state.detach() + start - start.detach()
            q = self.to_q(self.slot_norm(state))
            attention = (q @ k.transpose(1, 2)).softmax(dim=1) + _EPSILON
            seen = (attention / attention.sum(dim=2, keepdim=True)) @ v
            state = self.gru(seen.flatten(0, 1), state.flatten(0, 1)).view_as(state)
            if not self.seen:
                state = state + self.mlp(state)
        return (seen + self.mlp(seen) if self.seen else state), state


class SlotEncoder(nn.Module):
    """Slots of a clip, carried from frame to frame; subclasses say what they are made of and must give back.

    Every slot has a start of its own, which is learned: slots that start alike would have to part before they can find
    anything, and some never do. Which slot takes which object is arbitrary all the same. Later frames start from the
    states of the frame before, so that an object keeps its slot, and need fewer iterations.

    ``front`` turns the clip's frames (M, …) into inputs (M, L, ``width_in``).
    """

    def __init__(
        self,
        front: nn.Module,
        *,
        width_in: int,
        slots: int,
        slot_dim: int,
        hidden: int,
        iterations: int,
        later_iterations: int,
        seen: bool = False,
    ) -> None:
        super().__init__()
        self.iterations, self.later_iterations = iterations, later_iterations
        self.front = front
        self.attention = SlotAttention(width_in, slot_dim, hidden=hidden, seen=seen)
        self.start = nn.Parameter(torch.randn(slots, slot_dim))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, T, …) to slots (B, T, N, D)."""
        inputs = self.front(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        state = self.start.expand(frames.shape[0], -1, -1)
        found = []
        for index in range(frames.shape[1]):
            iterations = self.later_iterations if index else self.iterations
            slots, state = self.attention(inputs[:, index], state, iterations=iterations, learn_start=index == 0)
            found.append(slots)
        return torch.stack(found, dim=1)

    @abstractmethod
    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots (B, T, N, D) to rebuilt frames (B, T, …) and masks (B, T, N, …) that sum to 1 over slots."""

    @abstractmethod
    def losses(self, frames: Tensor) -> Losses:
        """What training minimises; ``outputs`` are ``slots``, ``reconstruction`` and ``masks``."""


class SlotAutoencoder(SlotEncoder):
    """Slots of pictures that a CPU can train: a strided CNN, Slot Attention, a spatial-broadcast decoder.

    Frames are normalised floats (B, T, 3, h, w), and so are reconstructions; masks are (B, T, N, h, w). ``channels``
    is the width of the convolutions, ``hidden`` of the MLPs; ``seen`` is ``SlotAttention``'s.
    """

    mean_colour: Tensor
    batches: Tensor

    def __init__(
        self,
        *,
        image_size: int = 64,
        slots: int = 7,
        slot_dim: int = 64,
        channels: int = 32,
        hidden: int = 128,
        iterations: int = 3,
        later_iterations: int = 1,
        seen: bool = False,
    ) -> None:
        require_multiple("image_size", image_size, "two patches of the decoder", 2 * PATCH)
        super().__init__(
            PictureFront(image_size, channels=channels, hidden=hidden),
            width_in=channels,
            slots=slots,
            slot_dim=slot_dim,
            hidden=hidden,
            iterations=iterations,
            later_iterations=later_iterations,
            seen=seen,
        )
        self.decoder = BroadcastDecoder(image_size, slot_dim, channels=channels)
        self.register_buffer("mean_colour", torch.zeros(3, 1, 1))
        self.register_buffer("batches", torch.tensor(0))

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Paint every slot and overlay the paintings, on the mean colour; see ``SlotEncoder.decode``."""
        pictures, masks = self.decoder(slots.flatten(0, 1))
        pictures = pictures + self.mean_colour
        return pictures.unflatten(0, slots.shape[:2]), masks.unflatten(0, slots.shape[:2])

    def losses(self, frames: Tensor, *, merging: float = 0.0, motion: float = 0.0) -> Losses:
        """Mean squared error of the reconstructed frames plus ``merging`` · ``spread`` of the masks.

        All pixels count alike, or those that change more, as ``moving`` says for ``motion`` above 0.

        In training, ``mean_colour`` follows the frames: learning it by gradient would spoil the decoder's start.
        """
        if self.training:
            self.batches += 1
            colour = average(frames.detach().mean(dim=(0, 1, 3, 4))).view(3, 1, 1)
            self.mean_colour.lerp_(colour, 1.0 / self.batches.clamp(max=_MEMORY))
        slots = self.encode(frames)
        reconstruction, masks = self.decode(slots)
        error = (moving(frames, motion) * (reconstruction - frames).square()).mean()
        scattered = spread(masks)
        return Losses(
            total=error + merging * scattered,
            terms={"reconstruction": error, "spread": scattered},
            outputs={"slots": slots, "reconstruction": reconstruction, "masks": masks},
        )


def moving(frames: Tensor, motion: float) -> Tensor:
    """Weights (B, T, 1, h, w) of pixels, of mean 1: ``motion`` parts of 1 + ``motion`` go to what moves in its clip.

    By how far a pixel of frames (B, T, 3, h, w) is from its mean over the clip. An object of few pixels weighs so
    little among all of them that slots learn the still picture and leave it out; what moves is what can be acted on. A
    clip in which nothing moves counts 1 / (1 + ``motion``).
    """
    change = (frames - frames.mean(dim=1, keepdim=True)).abs().amax(dim=2, keepdim=True)
    share = change / change.mean(dim=(1, 3, 4), keepdim=True).clamp(min=_LEAST_SHARE)
    return (1.0 + motion * share) / (1.0 + motion)


def spread(masks: Tensor) -> Tensor:
    """Σ over slots of √(share of a clip's pixels), the mean over clips of masks (B, T, N, h, w).

    It grows when an object is split between slots and falls when a slot is given up; the picture that is rebuilt may
    be the same either way. It also falls with the area of objects, so masks shrink a little.
    """
    share = masks.mean(dim=(1, 3, 4))
    return (share + _LEAST_SHARE).sqrt().sum(dim=1).mean()


class PictureFront(nn.Module):
    """Pictures to the inputs of Slot Attention: a strided CNN, soft positions and a residual MLP per position.

    The instance norm takes away what all positions have in common, the ground; objects stand out of what is left.
    """

    def __init__(self, image_size: int, *, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, kernel_size=2 * PATCH, stride=PATCH, padding=PATCH // 2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.InstanceNorm2d(channels),
        )
        self.positions = SoftPositions(image_size // PATCH, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        for part in (self.layers, self.mlp):  # not the positions, which have their own start
            part.apply(start_lively)

    def forward(self, frames: Tensor) -> Tensor:
        """Normalised pictures (M, 3, h, w) to (M, L, C)."""
        seen: Tensor = self.layers(frames).flatten(2).transpose(1, 2) + self.positions()
        out: Tensor = seen + self.mlp(seen)
        return out
