import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jepakit.zoo.readout import Readout, fit_readout

TOKENS, WIDTH = 2, 3
NAMES = ("x", "angle")


def data(count, *, noise=0.0, seed=0):
    """Latents of very different scales, and quantities that depend on them linearly."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(count, TOKENS, WIDTH)) * np.geomspace(0.01, 100, 6).reshape(TOKENS, WIDTH) + 5
    truth = np.array([[1.0, -2.0, 0.5, 0.0, 0.01, 3.0], [0.0, 30.0, 0.0, 2.0, 0.0, 0.1]])
    values = latents.reshape(count, -1) @ truth.T + [10.0, -3.0]
    return latents.astype(np.float32), values + noise * rng.normal(size=values.shape)


def test_it_finds_a_linear_dependence():
    latents, values = data(500)
    readout = fit_readout(latents, values, NAMES, ridge=1e-8)
    unseen, expected = data(100, seed=1)
    np.testing.assert_allclose(readout(torch.from_numpy(unseen)).numpy(), expected, rtol=1e-3, atol=1e-2)
    assert all(value > 0.9999 for value in readout.r2(unseen, expected).values())


@pytest.mark.parametrize("frames", [4, 6, 40])
def test_it_is_the_ridge_solution_with_more_or_fewer_frames_than_latents(frames):
    """Against least squares on data extended by the penalty's rows."""
    latents, values = data(frames, noise=1.0)
    z = latents.reshape(frames, -1).astype(np.float64)
    x, t = ((array - array.mean(axis=0)) / array.std(axis=0) for array in (z, values))
    penalty = np.sqrt(0.1 * frames) * np.eye(6)
    solved = np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([t, np.zeros((6, 2))]), rcond=None)[0]
    expected = x @ solved * values.std(axis=0) + values.mean(axis=0)
    found = fit_readout(latents, values, NAMES, ridge=0.1)(torch.from_numpy(latents))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_latent_that_never_changes_is_ignored():
    latents, values = data(50)
    latents[:, 0, 0] = 7.0
    assert torch.isfinite(fit_readout(latents, values, NAMES).weight).all()


def test_r2_is_one_minus_the_unexplained_share():
    latents, values = data(300, noise=20.0)
    readout = fit_readout(latents, values, NAMES)
    predicted = readout(torch.from_numpy(latents)).numpy()
    expected = 1 - ((values - predicted) ** 2).mean(axis=0) / values.var(axis=0)
    assert list(readout.r2(latents, values)) == list(NAMES)
    np.testing.assert_allclose(list(readout.r2(latents, values).values()), expected, rtol=1e-4)


def test_saving_and_loading_changes_nothing(tmp_path):
    latents, values = data(50)
    readout = fit_readout(latents, values, NAMES)
    readout.save(tmp_path / "readout.safetensors")
    loaded = Readout.load(tmp_path / "readout.safetensors")
    assert loaded.names == NAMES
    assert loaded.features == TOKENS * WIDTH
    torch.testing.assert_close(loaded.state_dict(), readout.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(loaded(torch.from_numpy(latents)), readout(torch.from_numpy(latents)), rtol=0, atol=0)


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, file)  # whose quantities nobody knows
    with pytest.raises(ValueError, match=r"other.safetensors: not a readout \(Readout.names: found \[\]"):
        Readout.load(file)
    save_file({"weight": torch.zeros(2, 3)}, file, metadata={"quantities": '["x", "y"]'})
    with pytest.raises(ValueError, match=r"other.safetensors: 1 tensors do not fit .*: missing bias"):
        Readout.load(file)
    file.write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"other.safetensors: not a readout"):
        Readout.load(file)
    with pytest.raises(FileNotFoundError):
        Readout.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y: (z[:, 0], y, NAMES, 1e-3), r"found shapes \(20, 3\) and \(20, 2\), expected \(n, N, D\)"),
        (lambda z, y: (z, y[:-1], NAMES, 1e-3), r"and \(19, 2\), expected"),
        (lambda z, y: (z, y, ("x",), 1e-3), r"expected \(n, N, D\) and \(n, 1\)"),
        (lambda z, y: (z, y, ("x", "x"), 1e-3), r"Readout.names: found \['x', 'x'\]"),
        (lambda z, y: (z, np.where(y > 0, np.nan, y), NAMES, 1e-3), "values: found numbers that are not finite"),
        (lambda z, y: (z, y * [1, 0], NAMES, 1e-3), r"values: found \['angle'\] constant in all 20 frames"),
        (lambda z, y: (z[:1], y[:1], NAMES, 1e-3), r"values: found \['x', 'angle'\] constant in all 1 frames"),
        (lambda z, y: (z, y, NAMES, 0.0), "ridge: found 0.0, expected more than 0"),
    ],
)
def test_data_that_do_not_fit_are_refused(change, message):
    z, y, names, ridge = change(*data(20))
    with pytest.raises(ValueError, match=message):
        fit_readout(z, y, names, ridge=ridge)
