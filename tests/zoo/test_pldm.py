import pytest
import torch

from jepakit.zoo import PLDM, PLDMConfig, from_pretrained
from jepakit.zoo.config import parse_config
from jepakit.zoo.losses import vicreg
from jepakit.zoo.pldm.model import PLDMModel

TERMS = {
    "variance": vicreg.variance,
    "covariance": vicreg.covariance,
    "time_similarity": vicreg.time_similarity,
    "time_variance": vicreg.time_variance,
    "time_covariance": vicreg.time_covariance,
}
NOTHING = {f"{term}_weight": 0.0 for term in (*TERMS, "inverse_dynamics")}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def build(small, statistics):
    """A tiny PLDM in train mode, without dropout, whose modulation is not zero as at the start."""
    sizes = {name: value for name, value in small.items() if name != "directions"}

    def build(**changes):
        torch.manual_seed(0)
        model = PLDMModel({**sizes, "encoder": "cnn", "dropout": 0.0, **changes})
        model.set_statistics(statistics)
        for block in getattr(model.predictor, "blocks", []):
            torch.nn.init.normal_(block.modulation.weight, std=0.3)
        return model.train()

    return build


@pytest.mark.parametrize("term", TERMS)
def test_the_terms_ignore_where_the_batch_lies(term):
    z, place = random(6, 4, 5), random(1, 1, 5, seed=1)
    torch.testing.assert_close(TERMS[term](z + place), TERMS[term](z), rtol=1e-4, atol=1e-6)


def test_variance_asks_for_a_spread_of_one():
    z = random(4000, 2, 5)
    spread_out = (z - z.mean(dim=0)) / z.std(dim=0)
    assert vicreg.variance(2.0 * spread_out) == 0.0
    torch.testing.assert_close(vicreg.variance(0.25 * spread_out), torch.tensor(0.75), atol=1e-3, rtol=0)
    torch.testing.assert_close(vicreg.variance(torch.ones(8, 3, 5)), torch.tensor(0.99))


def test_covariance_sees_copied_dimensions_and_only_those():
    z = random(4000, 2, 2)
    copied = torch.cat([z, z[..., :1]], dim=-1)
    assert vicreg.covariance(z) < 1e-3
    torch.testing.assert_close(vicreg.covariance(copied), torch.tensor(2.0 / 6.0), rtol=0.1, atol=0)


@pytest.mark.parametrize("term", TERMS)
def test_collapsed_latents_and_single_windows_have_finite_losses_and_gradients(term):
    for z in (torch.ones(6, 4, 5), random(1, 4, 5), random(6, 2, 5), random(6, 4, 1)):
        z.requires_grad_()
        value = TERMS[term](z)
        value.backward()
        assert value.isfinite()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("term", TERMS)
def test_autocast_leaves_the_terms_in_float32(term):
    z = random(6, 4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = TERMS[term](z)
    assert torch.equal(found, TERMS[term](z))


def test_the_default_is_the_comparison_of_lewms_authors(build, batch):
    model = build()
    losses = model.losses(batch)
    z, terms = losses.outputs["latents"].squeeze(2), losses.terms
    predicted = losses.outputs["predictions"].squeeze(2)
    torch.testing.assert_close(predicted, model.predict_next(z[:, :3], model.embed_actions(batch["action"][:, :3])))
    expected = (
        (predicted - z[:, 1:]).square().mean()
        + 18 * vicreg.variance(z)
        + 12 * vicreg.covariance(z)
        + 0.2 * vicreg.time_similarity(z)
        + 0.7 * vicreg.time_variance(z)
    )
    torch.testing.assert_close(losses.total, expected)
    assert list(terms) == ["prediction", "variance", "covariance", "time_similarity", "time_variance"]


def test_terms_of_weight_zero_are_not_computed(build, batch):
    losses = build(**NOTHING).losses(batch)
    assert list(losses.terms) == ["prediction"]
    assert torch.equal(losses.total, losses.terms["prediction"])


def test_inverse_dynamics_exist_only_where_they_are_weighed(build, batch):
    assert not hasattr(build(), "inverse_dynamics")
    model = build(**{**NOTHING, "inverse_dynamics_weight": 2.0})
    losses = model.losses(batch)
    z, actions = losses.outputs["latents"].squeeze(2), batch["action"][:, :3]
    error = model.inverse_dynamics(z[:, :3], z[:, 1:]) - (actions - model.action_mean) / model.action_std
    torch.testing.assert_close(losses.terms["inverse_dynamics"], error.square().mean())
    torch.testing.assert_close(losses.total, losses.terms["prediction"] + 2.0 * error.square().mean())


@pytest.mark.parametrize("predictor", ["transformer", "recurrent"])
def test_gradients_reach_every_parameter(build, batch, predictor):
    model = build(predictor=predictor, inverse_dynamics_weight=1.0, time_covariance_weight=1.0)
    model.losses(batch).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@torch.no_grad()
def test_the_recurrent_predictor_reads_its_own_position_only(build, batch):
    model = build(predictor="recurrent").eval()
    z, a = model.encode(batch)[:, :3], batch["action"][:, :3]
    whole = model.predict(z, a)
    for position in range(3):
        alone = model.predict(z[:, position : position + 1], a[:, position : position + 1])
        torch.testing.assert_close(alone, whole[:, position : position + 1])
    assert (whole - z).abs().max() > 1e-3


@torch.no_grad()
def test_the_recurrent_predictor_is_trained_by_unrolling(build, batch):
    model = build(predictor="recurrent").eval()
    losses = model.losses(batch)
    imagined = model.rollout(model.encode(batch)[:, :1], batch["action"][:, :0], batch["action"][:, None, :3])
    torch.testing.assert_close(losses.outputs["predictions"], imagined[:, 0])


@pytest.mark.parametrize("history", [1, 3])
@torch.no_grad()
def test_recurrent_rollouts_are_predict_applied_again_and_again(build, batches, history):
    model, batch = build(predictor="recurrent").eval(), batches(2, frames=3)
    latents, candidates = model.encode(batch)[:, :history], random(2, 4, 5, 6, seed=3)
    rolled = model.rollout(latents, batch["action"][:, : history - 1], candidates)
    for sample in range(4):
        now = latents[:, -1:]
        for block in range(5):
            now = model.predict(now, candidates[:, sample, block : block + 1])
            torch.testing.assert_close(rolled[:, sample, block : block + 1], now, atol=1e-5, rtol=1e-5)


def spread_after_training(model, batches):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        model.losses(batches(24, seed=step % 8), step).total.backward()
        optimizer.step()
    return model.losses(batches(64, seed=99)).outputs["latents"].std(dim=0).mean().item()


def test_without_its_regularisers_the_latents_collapse(build, batches):
    assert spread_after_training(build(**NOTHING), batches) < 0.2
    assert spread_after_training(build(), batches) > 0.6


@pytest.mark.parametrize("predictor", ["transformer", "recurrent"])
def test_saved_models_reload(build, batch, tmp_path, predictor):
    model = build(predictor=predictor, inverse_dynamics_weight=1.0).eval()
    module = PLDM(config=model.config)
    module.model.load_state_dict(model.state_dict())
    loaded = from_pretrained(module.save_pretrained(tmp_path / "model"))
    assert isinstance(loaded, PLDM)
    assert loaded.model.config == model.config
    z, candidates = loaded.encode(batch), random(6, 2, 3, 6)
    assert torch.equal(z, model.encode(batch))
    past = batch["action"][:, :2]
    assert torch.equal(loaded.rollout(z[:, :3], past, candidates), model.rollout(z[:, :3], past, candidates))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variance_weight": -1.0}, "variance_weight: found -1.0, expected at least 0"),
        ({"predictor": "gru"}, r"config.predictor: found 'gru' .*\['transformer', 'recurrent'\]"),
        ({"recurrent_hidden": 0}, "recurrent_hidden: found 0"),
        ({"lambda_": 0.09}, "unknown key 'lambda_' for PLDMConfig"),
    ],
)
def test_refuses_what_does_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        parse_config(PLDMConfig, values, where="config")
