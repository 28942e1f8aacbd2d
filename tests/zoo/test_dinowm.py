from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from jepakit.zoo import DINOWM, DINOWMConfig, DINOWMModel, LeWM, LeWMConfig

SMALL = {
    **{"image_size": 16, "frame_skip": 2, "action_dim": 3, "encoder": "cnn", "encoder_size": 16},
    **{"cnn_channels": (4, 6), "action_embedding": 3, "proprio_embedding": 2, "predictor_depth": 2},
    **{"predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16, "dropout": 0.0},
}


def make_batch(windows, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixels": torch.randint(0, 256, (windows, frames, 16, 16, 3), dtype=torch.uint8, generator=generator),
        "action": torch.randn(windows, frames, 6, generator=generator),
        "proprio": torch.randn(windows, frames, 2, generator=generator),
    }


@pytest.fixture
def batch():
    return make_batch(3)


@pytest.fixture(params=["pixels", "proprio", "proprio, other width"])
def model(request, statistics):
    torch.manual_seed(0)
    wide = {"predictor_width": 12} if "width" in request.param else {}
    proprio = 2 if "proprio" in request.param else 0
    built = DINOWMModel(DINOWMConfig(**SMALL, proprio_dim=proprio, **wide))
    statistics.proprio_mean, statistics.proprio_std = np.array([0.5, -1.0]), np.array([2.0, 0.5])
    built.set_statistics(statistics)
    return built.eval()


@torch.no_grad()
def test_latents_are_tokens_and_tiled_proprioception(model, batch):
    z = model.encode(batch)
    assert z.shape == (3, 4, 4, model.config.latent_dim)
    assert torch.equal(z[..., :6], model.features(batch))
    if model.config.proprio_dim:
        raw = batch["proprio"][1, 2]
        expected = model.proprio_encoder((raw - torch.tensor([0.5, -1.0])) / torch.tensor([2.0, 0.5]))
        torch.testing.assert_close(z[1, 2, :, 6:], expected.expand(4, 2))


@torch.no_grad()
def test_predictions_see_neither_later_frames_nor_later_actions(model, batch):
    z, a = model.encode(batch)[:, :3], batch["action"][:, :3]
    base = model.predict(z, a)
    for position in range(3):
        later_z, later_a = z.clone(), a.clone()
        later_z[:, position, 1] *= -1.0
        later_a[:, position] -= 1.0
        for changed in (model.predict(later_z, a), model.predict(z, later_a)):
            torch.testing.assert_close(changed[:, :position], base[:, :position], atol=1e-6, rtol=1e-6)
            assert ((changed[:, position] - base[:, position]).abs().amax(dim=-1) > 1e-5).all()  # every token


@pytest.mark.parametrize("history", [1, 2, 3])
@torch.no_grad()
def test_rollout_is_predict_applied_again_and_again(model, history):
    batch = make_batch(2, frames=3)
    z, past = model.encode(batch)[:, :history], batch["action"][:, : history - 1]
    candidates = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3))
    rolled = model.rollout(z, past, candidates)
    assert rolled.shape == (2, 4, 5, 4, model.config.latent_dim)
    for sample in range(4):
        frames, actions = z, torch.cat([past, candidates[:, sample]], dim=1)
        for now in range(history, history + 5):
            context = slice(max(0, now - 3), now)
            following = model.predict(frames[:, context], actions[:, context])[:, -1:]
            frames = torch.cat([frames, following], dim=1)
        torch.testing.assert_close(rolled[:, sample], frames[:, history:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_model_of_history_one_rolls_out(batch):
    torch.manual_seed(0)
    model = DINOWMModel(DINOWMConfig(**{**SMALL, "history": 1})).eval()
    z, candidates = model.encode(batch)[:, :1], make_batch(6, 2, seed=4)["action"].reshape(3, 2, 2, 6)
    rolled = model.rollout(z, batch["action"][:, :0], candidates)
    second = model.predict(rolled[:, 1, :1], candidates[:, 1, 1:])
    torch.testing.assert_close(rolled[:, 1, 1:], second, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_actions_are_raw_units(model, batch, statistics):
    z, standardised = model.encode(batch)[:, :3], batch["action"][:, :3]
    raw = torch.from_numpy(statistics.action_mean) + standardised * torch.from_numpy(statistics.action_std)
    found = model.predict(z, raw)
    model.action_mean.zero_()
    model.action_std.fill_(1.0)
    torch.testing.assert_close(found, model.predict(z, standardised), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_error_of_visual_and_proprio_dimensions(model, batch):
    losses = model.losses(batch)
    z, predicted = losses.outputs["latents"], losses.outputs["predictions"]
    torch.testing.assert_close(predicted, model.predict(z[:, :3], batch["action"][:, :3]))
    torch.testing.assert_close(losses.total, (predicted - z[:, 1:]).square().mean())
    if model.config.proprio_dim:  # a mean over 6 visual and 2 proprio dimensions
        mixed = (6 * losses.terms["visual"] + 2 * losses.terms["proprio"]) / 8
        torch.testing.assert_close(losses.total, mixed)


def test_targets_are_detached(batch):
    """With a predictor that returns nothing but zeros, no gradient may come from the targets."""
    torch.manual_seed(0)
    model = DINOWMModel(DINOWMConfig(**SMALL, proprio_dim=2))
    torch.nn.init.zeros_(model.predictor.norm.weight)
    torch.nn.init.zeros_(model.predictor.norm.bias)
    model.losses(batch).total.backward()
    assert model.losses(batch).total > 0
    assert not model.proprio_encoder.weight.grad.any()


def test_gradients_reach_all_that_is_trained_and_nothing_else(model, batch):
    model.train().losses(batch).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == [name for name, _ in model.named_parameters() if name.startswith("encoder.")]


def test_goal_cost_weighs_proprioception_by_alpha():
    predicted = torch.randn(2, 5, 4, 8, generator=torch.Generator().manual_seed(5))
    goal = predicted[:, 2].clone()
    goal[..., 6:] += 3.0
    cost = [DINOWMModel(DINOWMConfig(**SMALL, proprio_dim=2, alpha=a)).goal_cost(predicted, goal) for a in (0.0, 0.5)]
    assert torch.equal(cost[0][:, 2], torch.zeros(2))
    torch.testing.assert_close(cost[1][:, 2], torch.full((2,), 0.5 * 9.0))
    torch.testing.assert_close(cost[0][1, 4], (predicted[1, 4, :, :6] - goal[1, :, :6]).square().mean())


def test_features_stand_in_for_pixels(model, batch):
    features = model.features(batch)
    cached = {"features": features, "action": batch["action"], "proprio": batch["proprio"]}
    torch.testing.assert_close(model.losses(cached).total, model.losses(batch).total)
    half = model.losses({**cached, "features": features.half()}).total
    torch.testing.assert_close(half, model.losses(batch).total, atol=0, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3, 4, 5, 6)}, r"features: found .* \(3, 4, 5, 6\), expected .* frames, 4, 6\)"),
        ({"features": torch.zeros(3, 4, 4, 6, dtype=torch.uint8)}, "features: found torch.uint8"),
        ({"features": torch.zeros(3, 5, 4, 6)}, "features: found windows of 5 frames, expected 2 to 4"),
        ({"proprio": torch.zeros(3, 4, 7)}, r"proprio: found \(3, 4, 7\), expected \(3, 4, 2\); set proprio_dim"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch, change, message):
    model = DINOWMModel(DINOWMConfig(**SMALL, proprio_dim=2))
    with pytest.raises(ValueError, match=message):
        model.losses({**batch, **change})


def test_missing_proprioception_is_named(batch):
    del batch["proprio"]
    with pytest.raises(ValueError, match=r"proprio: found only \['action', 'pixels'\]"):
        DINOWMModel(DINOWMConfig(**SMALL, proprio_dim=2)).encode(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "dinov2", "encoder_size": 200}, "encoder_size: found 200, expected a multiple of patch_size, 14"),
        ({"encoder_size": 12}, "encoder_size: found 12, expected a multiple of cnn_channels' stride, 8"),
        ({"encoder": "vit", "encoder_size": 28, "vit_heads": 5}, "vit_width: found 384, expected a multiple"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"alpha": -1.0}, "alpha: found -1.0"),
        ({"proprio_dim": -1}, "proprio_dim: found -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DINOWMConfig(**{**SMALL, **change})


# -- training ----------------------------------------------------------------------------------------------------------
class Windows(L.LightningDataModule):
    def __init__(self, statistics):
        super().__init__()
        windows = make_batch(24)
        self.windows = [{name: value[i] for name, value in windows.items()} for i in range(24)]
        self.statistics = statistics
        self.spec = SimpleNamespace(image_size=16, frame_skip=2, action_dim=3, history=3, predictions=1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.windows, batch_size=8)

    val_dataloader = train_dataloader


def trainer(folder, **changes):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"max_epochs": 2, "accelerator": "cpu", "enable_model_summary": False, **quiet, **changes}
    return L.Trainer(default_root_dir=folder, **settings)


@pytest.fixture
def weights(small, tmp_path):
    """A folder with a trained model that has convolutions, as a nano LeWM."""
    torch.manual_seed(7)
    return str(LeWM(config={**small, "encoder": "cnn"}).save_pretrained(tmp_path / "lewm"))


pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


def test_training_moves_all_but_the_encoder(weights, statistics, tmp_path):
    torch.manual_seed(0)
    module = DINOWM(SMALL, {"lr": 1e-2}, encoder_weights=weights)
    module.fetch_encoder()
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    first = module.losses(make_batch(24)).total
    trainer(tmp_path, max_epochs=8).fit(module, Windows(statistics))
    moved = {name for name, p in module.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in module.model.named_parameters() if not name.startswith("encoder.")}
    assert module.losses(make_batch(24)).total < 0.9 * first


def test_training_on_a_random_encoder_is_refused_before_it_starts(statistics, tmp_path):
    module = DINOWM(SMALL)
    before = {name: value.clone() for name, value in module.model.named_parameters()}
    with pytest.raises(ValueError, match=r"encoder_weights: found nothing, expected .* LeWM or PLDM .* 'cnn'"):
        trainer(tmp_path).fit(module, Windows(statistics))
    assert all(torch.equal(value, before[name]) for name, value in module.model.named_parameters())
    with pytest.raises(ValueError, match="such as facebook/dinov2-small"):
        DINOWMModel(DINOWMConfig(vit_depth=1)).require_encoder()


def test_a_checkpoint_is_resumed_and_trained_further_without_the_source(weights, statistics, tmp_path):
    module = DINOWM(SMALL, encoder_weights=weights)
    first = trainer(tmp_path, max_epochs=1)
    first.fit(module, Windows(statistics))
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = DINOWM(SMALL)
    trainer(tmp_path).fit(resumed, Windows(statistics), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert resumed.model.encoder.fingerprint() == module.model.encoder.fingerprint()
    loaded = DINOWM.from_pretrained(resumed.save_pretrained(tmp_path / "model"))
    trainer(tmp_path, max_epochs=1).fit(loaded, Windows(statistics))
    assert loaded.model.encoder.fingerprint() == module.model.encoder.fingerprint()


def test_nano_fits_the_convolutions_of_a_nano_lewm(tmp_path):
    LeWM(LeWMConfig.nano()).save_pretrained(tmp_path / "lewm")
    model = DINOWMModel(DINOWMConfig.nano())
    model.load_encoder(tmp_path / "lewm")
    assert (model.config.tokens, model.config.latent_dim) == (16, 96)


@pytest.mark.parametrize("model", ["proprio"], indirect=True)
def test_encoding_and_scoring_can_be_traced_for_any_batch(model):
    """What the export relies on: no control flow that depends on values, batch sizes left open."""

    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels, proprio, past, candidates):
            z = self.model.encode({"pixels": pixels, "proprio": proprio})
            return self.model.goal_cost(self.model.rollout(z[:, :2], past, candidates)[:, :, -1], z[:, 2])

    def inputs(windows, samples):
        batch = make_batch(windows, frames=3)
        candidates = torch.randn(windows, samples, 3, 6, generator=torch.Generator().manual_seed(6))
        return batch["pixels"], batch["proprio"], batch["action"][:, :1], candidates

    windows, samples = torch.export.Dim("windows"), torch.export.Dim("samples")
    open_sizes = ({0: windows}, {0: windows}, {0: windows}, {0: windows, 1: samples})
    with torch.no_grad():
        traced = torch.export.export(Score(), inputs(2, 3), dynamic_shapes=open_sizes).module()
        other = inputs(5, 4)
        torch.testing.assert_close(traced(*other), Score()(*other))
