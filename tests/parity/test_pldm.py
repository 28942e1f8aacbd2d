"""PLDM's loss terms against the recorded values of the reference implementation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jepakit.zoo.losses import vicreg
from jepakit.zoo.pldm.model import PLDMModel


@pytest.fixture(scope="module")
def recorded(fixtures_dir):
    with np.load(fixtures_dir / "losses.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.mark.parametrize(
    ("term", "name"),
    [
        (vicreg.variance, "std_loss"),
        (vicreg.time_variance, "std_t_loss"),
        (vicreg.covariance, "cov_loss"),
        (vicreg.time_covariance, "cov_t_loss"),
        (vicreg.time_similarity, "temp_align_loss"),
    ],
)
def test_every_term_is_the_recorded_one(recorded, term, name):
    z = recorded["z"].clone().requires_grad_()
    value = term(z)
    torch.testing.assert_close(value.detach(), recorded[name], rtol=1e-5, atol=0)
    value.backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() > 0


def test_the_model_adds_up_the_recorded_terms(recorded, monkeypatch):
    """The whole objective, with an inverse-dynamics network that answers what was recorded."""
    weights = {"variance": 3.0, "covariance": 5.0, "time_variance": 7.0, "time_covariance": 11.0}
    weights |= {"time_similarity": 13.0, "inverse_dynamics": 17.0}
    z, target = recorded["z"], recorded["action_target"]
    model = PLDMModel(
        {
            **{f"{term}_weight": weight for term, weight in weights.items()},
            **{"image_size": 16, "encoder": "cnn", "latent_dim": z.shape[-1], "action_dim": target.shape[-1]},
            **{"frame_skip": 1, "predictor": "recurrent"},
        }
    )
    seen = []

    def answer(before, after):
        seen.append((before, after))
        return recorded["action_pred"]

    monkeypatch.setattr(model.inverse_dynamics, "forward", answer)
    losses = model.objective(z, target)
    names = {"variance": "std_loss", "covariance": "cov_loss", "time_variance": "std_t_loss"}
    names |= {"time_covariance": "cov_t_loss", "time_similarity": "temp_align_loss", "inverse_dynamics": "idm_loss"}
    expected = sum(weights[term] * recorded[name] for term, name in names.items())
    predicted = losses.outputs["predictions"].squeeze(2)
    torch.testing.assert_close(losses.total, expected + F.mse_loss(predicted, z[:, 1:]), rtol=1e-5, atol=0)
    ((before, after),) = seen
    assert torch.equal(before, z[:, :-1])
    assert torch.equal(after, z[:, 1:])
