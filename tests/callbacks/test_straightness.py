"""The straightness monitor: known paths, NumPy's numbers, and a training that it does not disturb."""

import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from jepakit.callbacks import StraightnessMonitor
from jepakit.callbacks.straightness import straightness
from jepakit.zoo import LeWM

torch.set_num_threads(1)

SMALL = {
    **{"image_size": 16, "encoder": "cnn", "cnn_channels": [4, 6], "latent_dim": 8, "projector_hidden": 20},
    **{"action_hidden": 14, "predictor_width": 12, "predictor_depth": 1, "predictor_heads": 2, "directions": 8},
    **{"predictor_head_dim": 4, "predictor_mlp": 16},
}


def path(*points):
    """Latents (1, T, 1, D) of one window."""
    return torch.tensor(points, dtype=torch.float32)[None, :, None]


@pytest.mark.parametrize(
    ("latents", "expected"),
    [
        (path([0, 0], [1, 2], [3, 6], [4, 8]), 1.0),
        (path([0, 0], [1, 2], [0, 0], [1, 2]), -1.0),
        (path([0, 0], [1, 0], [1, 1]), 0.0),
        (path([0, 0], [1, 0], [2, 1]), math.sqrt(0.5)),
        (path([0, 0], [1, 0], [2, 0], [2, 0], [2, 5], [2, 4]), 0.0),  # of the pairs +1, none, none, −1
        (1e-30 * path([0, 0], [1, 2], [3, 6], [4, 8]), 1.0),
    ],
)
def test_known_paths(latents, expected):
    assert straightness(latents) == pytest.approx(expected, abs=1e-6)


def test_numbers_are_those_of_numpy_over_all_tokens():
    latents = torch.randn(5, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    z = latents.double().numpy().reshape(5, 6, 12)
    steps = z[:, 1:] - z[:, :-1]
    cosines = [
        steps[b, t] @ steps[b, t + 1] / np.linalg.norm(steps[b, t]) / np.linalg.norm(steps[b, t + 1])
        for b in range(5)
        for t in range(4)
    ]
    assert straightness(latents) == pytest.approx(np.mean(cosines), rel=1e-5)


def test_where_nothing_moves_there_is_no_number():
    assert math.isnan(straightness(torch.ones(3, 4, 2, 8)))


def test_short_windows_are_refused_or_not_measured():
    with pytest.raises(ValueError, match=r"found shape \(3, 2, 1, 8\), expected .* at least 3 frames"):
        straightness(torch.ones(3, 2, 1, 8))
    assert StraightnessMonitor().measure(torch.ones(3, 2, 1, 8), 1) == {}


def fit(callbacks, **changes):
    generator = torch.Generator().manual_seed(0)
    batch = {
        "pixels": torch.randint(0, 256, (8, 4, 16, 16, 3), dtype=torch.uint8, generator=generator),
        "action": torch.randn(8, 4, 10, generator=generator),
    }
    torch.manual_seed(0)
    module = LeWM(config=SMALL, optimizer={"lr": 1e-2})
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    short = {"enable_model_summary": False, "log_every_n_steps": 1, "limit_val_batches": 0}
    trainer = L.Trainer(max_steps=5, callbacks=callbacks, **{**settings, **short, **changes})
    loader = torch.utils.data.DataLoader([batch] * 5, batch_size=None)
    trainer.fit(module, loader, loader)
    return module.state_dict(), torch.rand(3)


def test_it_logs_one_number_and_disturbs_nothing(tmp_path):
    plain, watched = (
        fit([]),
        fit([StraightnessMonitor(every_n_steps=2)], logger=CSVLogger(tmp_path, name="", version="")),
    )
    torch.testing.assert_close(watched, plain, rtol=0, atol=0)
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True, deletechars="")
    assert [name for name in rows.dtype.names if name.startswith("straightness")] == ["straightness/cosine"]
    measured = rows[np.isfinite(rows["straightness/cosine"])]
    assert measured["step"].tolist() == [1, 2, 4]
    assert (np.abs(measured["straightness/cosine"]) <= 1).all()
