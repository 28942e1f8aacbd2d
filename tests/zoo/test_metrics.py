import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from jepakit.zoo.metrics import foreground_ari, mean_best_overlap


def labels(high, seed, clips=5):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, (clips, 3, 6, 6))).to(torch.uint8)


@pytest.mark.parametrize("found", [labels(4, 1), labels(1, 1), (labels(5, 0) + 1) % 5])
def test_ari_is_scikit_learns_on_the_foreground_of_each_clip(found):
    true = labels(5, 0)
    expected = [adjusted_rand_score(t[t > 0], f[t > 0]) for t, f in zip(true.numpy(), found.numpy(), strict=True)]
    np.testing.assert_allclose(foreground_ari(true, found), expected, atol=1e-12)


def test_the_background_is_ignored_and_names_do_not_matter():
    true = labels(4, 0)
    found = torch.tensor([0, 3, 1, 2], dtype=torch.uint8)[true.long()]
    found[true == 0] = labels(4, 2)[true == 0]
    assert foreground_ari(true, found).tolist() == [1.0] * 5


def two_squares():
    """A clip of two frames with two 2 × 2 objects."""
    true = torch.zeros(1, 2, 6, 6, dtype=torch.long)
    true[:, :, :2, :2], true[:, :, 4:, 4:] = 1, 2
    return true


def test_slots_that_swap_their_objects_lose_points_though_each_frame_is_perfect():
    true = two_squares()
    swapped = true.clone()
    swapped[:, 1] = torch.tensor([0, 2, 1])[true[:, 1]]
    assert foreground_ari(true, swapped).item() < 0
    assert mean_best_overlap(true, swapped).item() == pytest.approx(1 / 3)
    frames = swapped.transpose(0, 1)
    assert foreground_ari(true.transpose(0, 1), frames).tolist() == [1.0, 1.0]


def test_one_object_and_none():
    one, none = torch.ones(1, 1, 2, 2, dtype=torch.long), torch.zeros(1, 1, 2, 2, dtype=torch.long)
    assert foreground_ari(one, none).item() == 1.0
    assert foreground_ari(none, one).isnan().all()
    assert mean_best_overlap(none, one).isnan().all()


def test_best_overlap_of_known_masks():
    true = two_squares()
    found = true.clone()
    found[:, :, :2, 2] = 1  # object 1 found half too large: 8 of 12 pixels
    found[:, :, 4, 4:] = 3  # half of object 2
    assert mean_best_overlap(true, found).item() == pytest.approx((8 / 12 + 4 / 8) / 2)


def test_every_clip_counts_for_itself():
    true, found = labels(5, 0), labels(4, 1)
    for metric in (foreground_ari, mean_best_overlap):
        alone = torch.cat([metric(t[None], f[None]) for t, f in zip(true, found, strict=True)])
        torch.testing.assert_close(metric(true, found), alone)
