import pytest
import torch

from jepakit.zoo.layers.frame_causal import FrameCausalPredictor, frame_causal_mask


def build(width_in=6, dropout=0.0):
    torch.manual_seed(0)
    return FrameCausalPredictor(
        width_in, tokens=4, history=3, width=8, depth=2, heads=2, head_dim=3, mlp=10, dropout=dropout
    )


def test_the_mask_is_full_inside_a_frame_and_causal_between_frames():
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert frame_causal_mask(2, 2).int().tolist() == expected


@pytest.mark.parametrize("frame", [0, 1, 2])
@torch.no_grad()
def test_a_token_reaches_its_own_frame_and_later_ones_only(frame):
    predictor = build().eval()
    x = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[0, frame, 2] *= -1.0
    difference = (predictor(changed) - predictor(x)).abs().amax(dim=-1)[0]
    assert torch.equal(difference[:frame], torch.zeros(frame, 4))
    assert (difference[frame:] > 1e-4).all()


@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_the_last_frame_alone_is_the_last_of_all(frames):
    predictor = build().eval()
    x = torch.randn(2, frames, 4, 6, generator=torch.Generator().manual_seed(2))
    alone = predictor(x, last_only=True)
    assert alone.shape == (2, 1, 4, 8)
    torch.testing.assert_close(alone, predictor(x)[:, -1:], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_dropout_works_in_training_only():
    predictor = build(dropout=0.5)
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(predictor(x), predictor(x))
    predictor.eval()
    assert torch.equal(predictor(x), predictor(x))


def test_nothing_is_projected_between_equal_widths():
    same = build(width_in=8)
    assert not [name for name, _ in same.named_parameters() if name.startswith("input_proj")]
