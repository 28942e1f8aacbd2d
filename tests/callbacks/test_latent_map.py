"""The latent map's projection, against scikit-learn."""

import numpy as np
import pytest
import torch
from oracle import Oracle, prepared
from PIL import Image
from sklearn.decomposition import PCA

from jepakit.callbacks import LatentMap
from jepakit.callbacks.latent_map import draw_map, neighbours, principal_components


def test_components_are_those_of_pca():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    points, shares = principal_components(latents)
    pca = PCA(2).fit(latents)
    np.testing.assert_allclose(np.abs(points), np.abs(pca.transform(latents)), atol=1e-8)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_)


def test_the_picture_shows_the_points(tmp_path):
    rng = np.random.default_rng(0)
    states = rng.uniform(size=(300, 2))
    draw_map((states, states), (("a", "b"), ("c", "d")), states, ["x", "y"], tmp_path / "map.png")
    picture = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).reshape(-1, 3)
    colours = np.unique(picture[picture.std(axis=1) > 20], axis=0)
    assert len(colours) > 100  # the colour scale, not an empty frame


def test_neighbours_stay_neighbours():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.eye(3), 20, axis=0) * 50
    placed = neighbours(clusters + rng.normal(size=(60, 3)))
    centres = placed.reshape(3, 20, 2).mean(axis=1)
    nearest = np.linalg.norm(placed[:, None] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.repeat([0, 1, 2], 20))


def test_it_maps_a_model(data, tmp_path):
    found = LatentMap(frames=40).measure(prepared(Oracle(), data), data, tmp_path)
    assert found["pc1"] + found["pc2"] == pytest.approx(1.0)  # its latents have two dimensions
    assert found["pc1"] >= found["pc2"] > 0
    assert (tmp_path / "latent_map.png").is_file()


def test_a_model_that_has_collapsed_is_one_point(data, tmp_path, monkeypatch):
    np.testing.assert_array_equal(neighbours(np.ones((40, 16))), np.zeros((40, 2)))  # t-SNE would end the process
    model = prepared(Oracle(), data)
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda observation: torch.ones_like(encode(observation)))
    assert LatentMap(frames=40).run(model, data, tmp_path, step=0) == {"pc1": 0.0, "pc2": 0.0}
    monkeypatch.setattr(model, "encode", lambda observation: encode(observation) * torch.nan)
    with pytest.raises(ValueError, match="LatentMap: found latents that are not finite"):
        LatentMap(frames=40).run(model, data, tmp_path, step=1)
