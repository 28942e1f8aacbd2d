"""SIGReg against the recorded value and gradient of the reference implementation."""

import numpy as np
import torch

from jepakit.zoo.losses.sigreg import sigreg


def test_value_and_gradient(fixtures_dir):
    with np.load(fixtures_dir / "losses.npz", allow_pickle=False) as file:
        recorded = {name: torch.from_numpy(file[name]) for name in ("z", "directions", "sigreg", "sigreg_grad")}
    z = recorded["z"].requires_grad_()
    value = sigreg(z, recorded["directions"])
    value.backward()
    torch.testing.assert_close(value.detach(), recorded["sigreg"], rtol=1e-5, atol=0)
    error = (z.grad - recorded["sigreg_grad"]).abs().max() / recorded["sigreg_grad"].abs().max()
    assert error <= 1e-5
