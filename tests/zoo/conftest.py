from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from jepakit.zoo import LeWMConfig
from jepakit.zoo.lewm.model import LeWMModel

torch.set_num_threads(1)  # these models are too small to share

SMALL = {
    "image_size": 16,
    "frame_skip": 2,
    "action_dim": 3,
    "patch_size": 8,
    "vit_width": 12,
    "vit_depth": 2,
    "vit_heads": 3,
    "vit_mlp": 16,
    "cnn_channels": [4, 6],
    "latent_dim": 8,
    "projector_hidden": 20,
    "action_mixed": 5,
    "action_hidden": 14,
    "predictor_width": 12,
    "predictor_depth": 2,
    "predictor_heads": 2,
    "predictor_head_dim": 4,
    "predictor_mlp": 16,
    "directions": 32,
}


@dataclass
class FittedStatistics:
    action_mean: np.ndarray = field(default_factory=lambda: np.linspace(-1, 1, 6, dtype=np.float32))
    action_std: np.ndarray = field(default_factory=lambda: np.linspace(0.5, 2, 6, dtype=np.float32))
    action_low: np.ndarray = field(default_factory=lambda: np.full(3, -2, np.float32))
    action_high: np.ndarray = field(default_factory=lambda: np.full(3, 3, np.float32))
    proprio_mean: np.ndarray | None = None
    proprio_std: np.ndarray | None = None


@pytest.fixture
def statistics():
    return FittedStatistics()


@pytest.fixture
def small():
    """Plain values of a tiny LeWM: what a YAML file would hold."""
    return dict(SMALL)


@pytest.fixture(params=["vit", "cnn"])
def model(request, statistics):
    """A tiny LeWM in eval mode whose modulation and batch-norm statistics are not the trivial initial ones."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    built = LeWMModel(LeWMConfig(**{**SMALL, "encoder": request.param, "cnn_channels": (4, 6)}))
    built.set_statistics(statistics)
    for block in built.predictor.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.3, generator=generator)
    with torch.no_grad():
        for _ in range(3):
            built.losses(make_batch(8))
    return built.eval()


def make_batch(windows, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixels": torch.randint(0, 256, (windows, frames, 16, 16, 3), dtype=torch.uint8, generator=generator),
        "action": torch.randn(windows, frames, 6, generator=generator),
    }


@pytest.fixture
def batch():
    return make_batch(6)


@pytest.fixture
def batches():
    return make_batch
