import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepakit.zoo.losses.sigreg import random_directions, sigreg


def textbook(z, directions, knots=17, t_max=3.0):
    """The statistic as the papers write it: every knot's cos and sin at once, gradient by autograd."""
    t = torch.linspace(0, t_max, knots, dtype=z.dtype)
    dt = t_max / (knots - 1)
    weights = torch.full((knots,), 2 * dt, dtype=z.dtype)
    weights[[0, -1]] = dt
    target = torch.exp(-0.5 * t.square())
    angles = (z.transpose(0, 1) @ directions).unsqueeze(-1) * t  # (T, B, P, knots)
    error = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return ((error @ (weights * target)) * z.shape[0]).mean()


def directions(width, count, seed=0):
    return random_directions(width, count, seed=seed, step=0, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("shape", "count", "knots", "scale", "shift"),
    [
        ((16, 4, 24), 32, 17, 1.0, 0.0),
        ((128, 1, 64), 256, 17, 2.0, 0.7),
        ((5, 3, 2), 7, 4, 0.1, -3.0),
        ((64, 2, 16), 64, 32, 30.0, 0.0),
        ((2, 1, 1), 1, 2, 1.0, 0.0),
    ],
)
def test_value_and_gradient_equal_the_textbook_form(shape, count, knots, scale, shift):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale + shift
    slices = directions(shape[-1], count)
    ours, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    value, expected = sigreg(ours, slices, knots=knots), textbook(exact, slices.double(), knots=knots)
    (3.0 * value).backward()
    (3.0 * expected).backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-7)
    assert (ours.grad - exact.grad).abs().max() <= 1e-5 * exact.grad.abs().max()


def test_collapsed_latents_cost_0_402_per_window():
    for windows in (16, 128):
        value = sigreg(torch.zeros(windows, 4, 8), directions(8, 64))
        assert value.item() / windows == pytest.approx(0.402, abs=5e-4)


@pytest.mark.parametrize("windows", [32, 512])
def test_gaussian_latents_cost_1_052_whatever_the_batch(windows):
    z = torch.randn(windows, 64, 32, generator=torch.Generator().manual_seed(2))
    assert sigreg(z, directions(32, 512)).item() == pytest.approx(1.052, abs=0.05)


def test_the_order_of_windows_does_not_matter():
    z = torch.randn(32, 3, 8, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(sigreg(z, directions(8, 16)), sigreg(z[order], directions(8, 16)))


def test_every_time_step_is_tested_on_its_own():
    z = torch.randn(32, 3, 8, generator=torch.Generator().manual_seed(5))
    apart = torch.stack([sigreg(z[:, [t]], directions(8, 16)) for t in range(3)]).mean()
    torch.testing.assert_close(sigreg(z, directions(8, 16)), apart)


def test_autocast_does_not_change_it():
    z = torch.randn(64, 2, 16, generator=torch.Generator().manual_seed(6)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sigreg(z, directions(16, 32))
    torch.testing.assert_close(inside, sigreg(z.float(), directions(16, 32)), rtol=0, atol=0)


def test_the_gradient_has_the_latents_dtype():
    z = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(7)).bfloat16().requires_grad_()
    sigreg(z, directions(4, 8)).backward()
    assert z.grad.dtype == torch.bfloat16


def test_directions_follow_from_seed_and_step_only():
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    first = random_directions(6, 9, seed=1, step=5, device=cpu)
    torch.manual_seed(1)
    torch.testing.assert_close(first, random_directions(6, 9, seed=1, step=5, device=cpu), rtol=0, atol=0)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(9))
    for seed, step in ((1, 6), (2, 5)):
        assert not torch.equal(first, random_directions(6, 9, seed=seed, step=step, device=cpu))


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"found z \(4, 8\)"):
        sigreg(torch.zeros(4, 8), directions(8, 2))
    with pytest.raises(ValueError, match="expected at least 2"):
        sigreg(torch.zeros(4, 1, 8), directions(8, 2), knots=1)


def test_two_processes_equal_one(tmp_path):
    script = Path(__file__).with_name("sigreg_worker.py")
    workers = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path), str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    for rank in ranks:
        assert rank["value"] == pytest.approx(whole["value"].item(), rel=1e-5)
        assert rank["apart"] != pytest.approx(whole["value"].item(), rel=1e-2)
    # What DDP does: average the parameters' gradients over ranks.
    averaged = torch.tensor([rank["gradient"] for rank in ranks]).mean(0)
    error = (averaged - whole["gradient"]).abs().max() / whole["gradient"].abs().max()
    assert error <= 1e-5
