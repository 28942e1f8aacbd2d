"""Decoders that give slots back as a picture, or as the features of a frozen encoder.

Shape letters: M pictures, N slots, D slot width, L positions of a g × g grid, C channels, E feature width, h, w picture
size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4  # pixels a side of what the encoder's grid sees, and the decoder paints, at one position
_OCTAVES = 3


class SoftPositions(nn.Module):
    """A learned linear map of where each position is: distances from the four borders, and sines of three octaves.

    The borders are the paper's (arXiv 2006.15055, appendix E.2). Of them alone a decoder needs many times as many
    steps to learn to paint at one place. Embeddings start with variance 1.
    """

    places: Tensor

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        line = (torch.arange(grid) + 0.5) / grid
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
        angles = torch.cat([math.pi * 2**octave * places for octave in range(_OCTAVES)], dim=-1)
        places = torch.cat([places, 1.0 - places, angles.sin(), angles.cos()], dim=-1)
        self.register_buffer("places", places, persistent=False)
        self.project = nn.Linear(places.shape[1], width)
        nn.init.normal_(self.project.weight, std=(2 * _OCTAVES) ** -0.5)

    def forward(self) -> Tensor:
        """Embeddings (L, width)."""
        out: Tensor = self.project(self.places)
        return out


class BroadcastDecoder(nn.Module):
    """Every slot paints the whole picture and says where it is seen; masks are a softmax over slots.

    A spatial-broadcast decoder (arXiv 1901.07017) on coarse grids: slots are broadcast to every eighth pixel, and the
    last layer paints 4 × 4 pixels per position. Convolutions on the full picture would cost ten times as much.

    Two things make it learn in hundreds instead of thousands of steps. Positions multiply the broadcast slot, so that
    a linear map of a slot says where it is; and the last layer starts at zero, because random paintings would first
    teach the encoder to say nothing.
    """

    def __init__(self, image_size: int, slot_dim: int, *, channels: int) -> None:
        super().__init__()
        self.grid = image_size // (2 * PATCH)
        self.positions = SoftPositions(self.grid, channels)
        self.project = nn.Linear(slot_dim, 2 * channels)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.paint = nn.Linear(channels, 4 * PATCH**2)
        for part in (self.project, self.layers):
            part.apply(start_lively)
        nn.init.zeros_(self.paint.weight)
        nn.init.zeros_(self.paint.bias)

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots (M, N, D) to pictures (M, 3, h, w) and masks (M, N, h, w) that sum to 1 over slots."""
        scale, shift = self.project(slots).unsqueeze(2).chunk(2, dim=-1)
        x = scale * self.positions() + shift
        x = x.flatten(0, 1).unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        x = self.layers(x).permute(0, 2, 3, 1)
        painted = self.paint(x).unflatten(-1, (4, PATCH**2)).unflatten(0, slots.shape[:2])
        colours, scores = painted.split([3, 1], dim=-2)
        masks = scores.softmax(dim=1)  # (M, N, g, g, 1, 16): patches become pixels only once slots are summed
        pictures = (colours * masks).sum(dim=1)
        return (
            F.pixel_shuffle(pictures.flatten(-2).permute(0, 3, 1, 2), PATCH),
            F.pixel_shuffle(masks.flatten(-2).permute(0, 1, 4, 2, 3), PATCH).squeeze(2),
        )


def start_lively(module: nn.Module) -> None:
    """Initialise convolutions for ReLU (He) and the rest to keep the variance (Glorot), without offsets.

    For ``nn.Module.apply``. Torch's defaults shrink a signal by half or more in every layer; here that would drown
    what slots say about the picture in what they start from.
    """
    if isinstance(module, nn.ConvTranspose2d):
        taps = module.in_channels * math.prod(module.kernel_size) / math.prod(module.stride)
        nn.init.normal_(module.weight, std=math.sqrt(2 / taps))
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.GRUCell):
        for gate in range(3):
            rows = slice(gate * module.hidden_size, (gate + 1) * module.hidden_size)
            nn.init.xavier_uniform_(module.weight_ih[rows])
            nn.init.orthogonal_(module.weight_hh[rows])
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


class SlotMixer(nn.Module):
    """Every position mixes the slots by attention and renders the mixture (arXiv 2206.06922, section 3.2).

    One pass per position instead of one per position and slot, for frozen features of many positions; the mixing
    weights are the masks. ``grid`` positions a side, ``width_out`` numbers each.
    """

    def __init__(self, grid: int, slot_dim: int, *, hidden: int, width_out: int) -> None:
        super().__init__()
        self.positions = SoftPositions(grid, hidden)
        self.slot_norm = nn.LayerNorm(slot_dim)
        self.to_q = nn.Linear(hidden, hidden)
        self.to_kv = nn.Linear(slot_dim, 2 * hidden)
        self.mix_q = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, slot_dim, bias=False))
        self.mix_k = nn.Linear(slot_dim, slot_dim, bias=False)
        self.render_positions = SoftPositions(grid, slot_dim)
        self.render = nn.Sequential(
            nn.Linear(slot_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width_out)
        )
        for part in (self.to_q, self.to_kv, self.mix_q, self.mix_k, self.render):
            part.apply(start_lively)

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots (M, N, D) to features (M, L, width_out) and masks (M, N, L) that sum to 1 over slots."""
        place = self.positions().expand(slots.shape[0], -1, -1)
        normed = self.slot_norm(slots)
        k, v = self.to_kv(normed).chunk(2, dim=-1)
        allocated = place + F.scaled_dot_product_attention(self.to_q(place), k, v)
        scores = self.mix_q(allocated) @ self.mix_k(normed).transpose(1, 2)
        weights = (scores * slots.shape[-1] ** -0.5).softmax(dim=-1)
        features: Tensor = self.render(weights @ normed + self.render_positions())
        return features, weights.transpose(1, 2)
