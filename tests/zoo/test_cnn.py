"""The convolutional encoder, and its norms folded away."""

import pytest
import torch

from jepakit.zoo.layers.cnn import CNNEncoder, total_stride


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = CNNEncoder(image_size=16, channels=(4, 6))
    for _ in range(20):
        encoder(torch.randn(32, 3, 16, 16) + 0.5)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    return encoder


def test_folded_is_the_same_in_evaluation(encoder):
    frames = torch.randn(5, 3, 16, 16)
    folded = encoder.folded()
    assert encoder.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(frames), encoder.eval()(frames), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(folded(frames), encoder.train()(frames), atol=1e-2)
    assert folded.width == encoder.width == 6 * 2 * 2


def test_the_stride_is_that_of_the_layers():
    for channels in ((4,), (4, 6), (4, 6, 8)):
        rows = CNNEncoder(image_size=64, channels=channels).layers(torch.zeros(1, 3, 64, 64)).shape[-1]
        assert rows * total_stride(channels) == 64
