"""The latent map's projection, against scikit-learn."""

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA

from jepakit.callbacks.latent_map import draw_map, principal_components


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
    draw_map(np.hstack([states, np.zeros((300, 3))]), states, ["x", "y"], tmp_path / "map.png")
    picture = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).reshape(-1, 3)
    colours = np.unique(picture[picture.std(axis=1) > 20], axis=0)
    assert len(colours) > 100  # the colour scale, not an empty frame
