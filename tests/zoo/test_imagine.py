import pytest
import torch

from jepakit.zoo import DINOWMConfig, DINOWMModel, LeWMConfig, LeWMModel, VJEPAConfig, VJEPAModel


def lewm():
    model = LeWMModel(LeWMConfig.nano())
    for block in model.predictor.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.2)  # it starts at zero: actions would change nothing
    return model


MODELS = {
    "lewm": lewm,
    "dinowm": lambda: DINOWMModel(DINOWMConfig.nano()),
    "vjepa": lambda: VJEPAModel(VJEPAConfig.nano()),
}


def one_by_one(model, latents, past, candidates):
    """The definition: every imagined frame is the last of a prediction from its whole context."""
    samples, history = candidates.shape[1], model.config.history
    z = latents.repeat_interleave(samples, dim=0)
    a = torch.cat([past.repeat_interleave(samples, dim=0), candidates.flatten(0, 1)], dim=1)
    for now in range(latents.shape[1], latents.shape[1] + candidates.shape[2]):
        context = slice(max(0, now - history), now)
        z = torch.cat([z, model.predict(z[:, context], a[:, context])[:, -1:]], dim=1)
    return z[:, latents.shape[1] :].unflatten(0, candidates.shape[:2])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("frames", [1, 2, 3])
@torch.no_grad()
def test_imagining_equals_predicting_from_every_context_anew(name, frames):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    latents = model.encode({"pixels": torch.randint(0, 256, (2, frames, 64, 64, 3), dtype=torch.uint8)})
    past, candidates = torch.randn(2, frames - 1, 10), torch.randn(2, 3, 5, 10)
    imagined = model.rollout(latents, past, candidates)
    expected = one_by_one(model, latents, past, candidates)
    torch.testing.assert_close(imagined, expected, atol=2e-5, rtol=2e-5)
    assert (imagined[:, 0] - imagined[:, 1]).abs().max() > 1e-2  # candidates do matter
