import pytest
import torch
import torch.nn.functional as F

from jepakit.zoo.layers.predictor import CausalPredictor
from jepakit.zoo.layers.transformer import FIRST, LAST, AdaLNBlock, Attention, Block, FeedForward
from jepakit.zoo.layers.vit import ViTEncoder


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(qkv_bias):
    torch.manual_seed(0)
    return Attention(12, heads=3, head_dim=5, qkv_bias=qkv_bias).eval()


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products():
    layer, x = attention(True), random(2, 4, 12)
    q, k, v = layer.qkv(layer.norm(x)).reshape(2, 4, 3, 3, 5).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2) / 5**0.5).softmax(-1)
    expected = layer.out((scores @ v).transpose(1, 2).reshape(2, 4, 15))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("only", [FIRST, LAST, slice(1, 3)])
@torch.no_grad()
def test_computing_some_tokens_only_changes_nothing(qkv_bias, only):
    layer, x = attention(qkv_bias), random(2, 4, 12)
    torch.testing.assert_close(layer(x, only=only), layer(x)[:, only])
    block = Block(layer, FeedForward(12, 7))
    torch.testing.assert_close(block(x, only=only), block(x)[:, only])


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])  # up to three without matrix products
@torch.no_grad()
def test_the_mask_and_the_causal_flag_agree(tokens):
    layer, x = attention(True), random(2, tokens, 12)
    triangle = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    torch.testing.assert_close(layer(x, mask=triangle), layer(x, causal=True))


def test_adaln_zero_starts_as_the_identity_and_learns_anyway():
    block = AdaLNBlock(12, attention(False), FeedForward(12, 7))
    x, condition = random(2, 3, 12), random(2, 3, 12, seed=1)
    assert torch.equal(block.extend(x, block.modulate(condition), None)[0], x)
    block.extend(x, block.modulate(condition), None)[0].square().sum().backward()
    assert block.modulation.weight.grad.abs().max() > 0


@torch.no_grad()
def test_adaln_follows_its_equation():
    block = AdaLNBlock(12, attention(False), FeedForward(12, 7)).eval()
    torch.nn.init.normal_(block.modulation.weight, generator=torch.Generator().manual_seed(2))
    x, condition = 1e-2 * random(2, 3, 12), random(2, 3, 12, seed=1)  # small, so that the norm's eps counts
    s1, c1, g1, s2, c2, g2 = block.modulation(F.silu(condition)).split(12, dim=-1)
    h = x + g1 * block.attention(F.layer_norm(x, (12,), eps=1e-6) * (1 + c1) + s1, causal=True)
    expected = h + g2 * block.feed_forward(F.layer_norm(h, (12,), eps=1e-6) * (1 + c2) + s2)
    torch.testing.assert_close(block.extend(x, block.modulate(condition), None)[0], expected)


@pytest.mark.parametrize("width", [8, 12])
@torch.no_grad()
def test_the_predictors_last_position_alone_equals_the_last_of_all(width):
    torch.manual_seed(0)
    predictor = CausalPredictor(8, history=3, width=width, depth=2, heads=2, head_dim=4, mlp=16, dropout=0.5).eval()
    for block in predictor.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
    for frames in (1, 2, 3):
        z, a = random(4, frames, 8), random(4, frames, 8, seed=1)
        torch.testing.assert_close(predictor(z, a, last_only=True), predictor(z, a)[:, -1:])


@torch.no_grad()
def test_the_vit_reads_every_patch_and_its_place():
    torch.manual_seed(0)
    vit = ViTEncoder(image_size=16, patch_size=8, width=12, depth=2, heads=3, mlp=16).eval()
    vit.positions.normal_()
    picture = random(1, 3, 16, 16)
    for row, column in ((0, 0), (0, 8), (8, 0), (8, 8)):
        changed = picture.clone()
        changed[..., row : row + 8, column : column + 8] += 1.0
        assert not torch.allclose(vit(changed), vit(picture), atol=1e-4)
    assert not torch.allclose(vit(picture.roll(8, dims=-1)), vit(picture), atol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
def test_weights_are_those_that_mix_the_values(norm):
    torch.manual_seed(0)
    attention = Attention(6, heads=2, head_dim=4, qkv_bias=True, norm=norm)
    x = torch.randn(3, 5, 6)
    values = attention._heads(attention.qkv(attention.norm(x)))[:, :, 4:]
    mixed = torch.einsum("bhqk,bkhe->bqhe", attention.weights(x), values)
    torch.testing.assert_close(attention.out(mixed.flatten(2)), attention(x))
