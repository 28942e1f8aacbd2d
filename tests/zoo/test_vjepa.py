import csv
import dataclasses
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from jepakit.callbacks import NumericalGuard
from jepakit.zoo import VJEPA, VJEPAConfig, from_pretrained
from jepakit.zoo.config import parse_config
from jepakit.zoo.layers.vit import PatchEncoder, sincos_positions
from jepakit.zoo.module import warmup_cosine
from jepakit.zoo.vjepa.masking import draw_masks
from jepakit.zoo.vjepa.model import VJEPAModel

SMALL = {
    **{"image_size": 16, "frame_skip": 2, "action_dim": 3, "patch_size": 4, "vit_width": 12, "vit_depth": 2},
    **{"vit_heads": 3, "vit_mlp": 16, "mask_predictor_width": 8, "mask_predictor_depth": 2, "mask_predictor_heads": 2},
    **{"predictor_width": 10, "predictor_depth": 2, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16},
    **{"encoder_steps": 4, "momentum": 0.9},
}
FIRST_PHASE = ("context_encoder.", "mask_predictor.")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def build(statistics):
    def build(**changes):
        torch.manual_seed(0)
        model = VJEPAModel({**SMALL, **changes})
        model.set_statistics(statistics)
        return model.train()

    return build


@pytest.fixture
def trained(build):
    """A model in its second phase, in eval mode."""
    model = build()
    model.step_done(4)
    return model.eval()


def optimiser(model, lr=1e-2):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def train(model, batches, steps, optimizer):
    """Steps as the Lightning module takes them; returns the losses."""
    found = []
    for step in steps:
        optimizer.zero_grad()
        losses = model.losses(batches(6, seed=step), step)
        losses.total.backward()
        optimizer.step()
        model.step_done(step + 1)
        found.append(losses.total.item())
    return found


def dots(windows, seed):
    """Windows of a bright dot that walks over black: something to represent."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 14, (windows, 1, 2), generator=generator)
    walk = torch.randint(-3, 4, (windows, 4, 2), generator=generator).cumsum(dim=1)
    rows, columns = (start + walk).clamp(0, 13).flatten(0, 1).unbind(-1)
    pixels = torch.zeros(windows * 4, 16, 16, 3, dtype=torch.uint8)
    every = torch.arange(windows * 4)
    for down in range(3):
        for right in range(3):
            pixels[every, rows + down, columns + right, 0] = 255
    return {"pixels": pixels.unflatten(0, (windows, 4)), "action": random(windows, 4, 6, seed=seed)}


# -- masks --------------------------------------------------------------------------------------------------------
def test_masks_part_the_patches_and_change_with_the_step_only():
    visible, hidden = draw_masks(50, 8, 16, seed=3, step=7)
    every = torch.cat([visible, hidden], dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(64).expand(50, -1))
    again, _ = draw_masks(50, 8, 16, seed=3, step=7)
    assert torch.equal(visible, again)
    for other in (draw_masks(50, 8, 16, seed=3, step=8)[0], draw_masks(50, 8, 16, seed=4, step=7)[0]):
        assert not torch.equal(visible, other)
    assert not torch.equal(visible[0], visible[1])


def test_masks_are_blocks_that_reach_everywhere():
    def same_side(hidden):
        """How often a patch and its right neighbour are both hidden or both visible."""
        covered = torch.zeros(400, 64).scatter_(1, hidden, 1.0).reshape(400, 8, 8)
        return (covered[:, :, 1:] == covered[:, :, :-1]).float().mean(), covered.mean(dim=0)

    blocks, rate = same_side(draw_masks(400, 8, 24, seed=0, step=0)[1])
    order = torch.rand(400, 64, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    scattered, _ = same_side(order[:, 24:])
    assert blocks > scattered + 0.2
    assert rate.min() > 0.1
    assert rate.max() < 0.99


# -- the encoder --------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_hidden_patches_cannot_be_seen():
    torch.manual_seed(0)
    encoder = PatchEncoder(image_size=16, patch_size=8, width=12, depth=2, heads=3, mlp=16)
    frames, visible = random(2, 3, 16, 16), torch.tensor([[0, 3], [2, 1]])
    base = encoder(frames, visible)
    changed = frames.clone()
    changed[0, :, :8, 8:] += 1.0  # patch 1, hidden in picture 0 and visible in picture 1
    changed[1, :, :8, 8:] += 1.0
    found = encoder(changed, visible)
    assert torch.equal(found[0], base[0])
    assert not torch.equal(found[1], base[1])
    everything = torch.arange(4).expand(2, -1)
    torch.testing.assert_close(encoder(frames, everything), encoder(frames))
    torch.testing.assert_close(encoder(frames, everything.flip(1)), encoder(frames).flip(1))


def test_positions_are_distinct_waves():
    positions = sincos_positions((4, 3, 5), 20)
    assert positions.shape == (60, 20)
    assert torch.equal(positions[:, 18:], torch.zeros(60, 2))
    distances = torch.cdist(positions, positions) + 10 * torch.eye(60)
    assert distances.min() > 0.1
    torch.testing.assert_close(positions.square().sum(dim=1), torch.full((60,), 9.0))


@torch.no_grad()
def test_encoding_is_the_target_encoders_and_standardised(trained, batch):
    z = trained.encode(batch)
    assert z.shape == (6, 4, 16, 12)
    torch.testing.assert_close(z.mean(dim=-1), torch.zeros(6, 4, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(dim=-1, correction=0), torch.ones(6, 4, 16), atol=1e-2, rtol=0)
    torch.testing.assert_close(trained.encode({"pixels": batch["pixels"][2:3, 1:2]})[0, 0], z[2, 1])
    trained.context_encoder.patches.weight.add_(1.0)
    assert torch.equal(trained.encode(batch), z)
    trained.target_encoder.patches.weight[0].add_(1.0)
    assert not torch.allclose(trained.encode(batch), z)


# -- first phase --------------------------------------------------------------------------------------------------
def test_the_first_phase_predicts_hidden_patches(build, batch):
    model = build()
    losses = model.losses(batch, step=5)
    visible, hidden = draw_masks(6, 4, 4, seed=0, step=5)
    z = model.encode(batch)
    expected = []
    for window in range(6):
        frames = model.normalise_frames(batch["pixels"])[window]
        context = model.context_encoder(frames, visible[window].expand(4, -1))
        predicted = model.mask_predictor(context[None], visible[window : window + 1], hidden[window : window + 1])
        expected.append((predicted[0] - z[window][:, hidden[window]]).abs().mean())
    torch.testing.assert_close(losses.total, torch.stack(expected).mean())
    assert torch.equal(losses.outputs["latents"], z)
    assert losses.outputs.keys() == {"latents"}


def test_targets_get_no_gradient_and_the_rest_of_the_phase_does(build, batch):
    model = build()
    losses = model.losses(batch)
    assert not losses.outputs["latents"].requires_grad
    losses.total.backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert with_gradient == {name for name, _ in model.named_parameters() if name.startswith(FIRST_PHASE)}


def test_the_mask_predictor_uses_frames_of_other_times(build):
    mask_predictor = build().mask_predictor
    visible, hidden = draw_masks(1, 4, 4, seed=0, step=0)
    context = random(1, 4, 4, 12)
    base = mask_predictor(context, visible, hidden)
    context[:, 3] += random(4, 12, seed=1)
    assert (mask_predictor(context, visible, hidden)[:, 0] - base[:, 0]).abs().max() > 1e-4
    assert (base[:, 0] - base[:, 1]).abs().max() > 1e-4


def test_masks_differ_by_step_and_not_between_runs(build, batch):
    first, second = build(), build()
    assert torch.equal(first.losses(batch, 1).total, second.losses(batch, 1).total)
    assert not torch.equal(first.losses(batch, 1).total, first.losses(batch, 2).total)


def test_the_target_encoder_is_a_moving_average(build, batches):
    model = build(encoder_steps=4, momentum=0.6)
    source = model.context_encoder.patches.weight
    expected = model.target_encoder.patches.weight.clone()
    assert torch.equal(source, expected)
    optimizer = optimiser(model)
    for step, momentum in enumerate((0.7, 0.8, 0.9, 1.0)):
        train(model, batches, [step], optimizer)
        expected = momentum * expected + (1 - momentum) * source.detach()
        torch.testing.assert_close(model.target_encoder.patches.weight, expected)
    assert not torch.equal(source, expected)


def spread_after_training(model):
    optimizer = optimiser(model, lr=1e-3)
    train(model, lambda _, seed: dots(32, seed=seed), range(60), optimizer)
    return model.losses(dots(64, seed=99)).terms["target_spread"].item()


def test_the_features_do_not_collapse(build):
    """What the moving average and its stopped gradient are for: without them the encoder predicts itself away."""
    start = build().losses(dots(64, seed=99)).terms["target_spread"].item()
    settings = {"encoder_steps": 1000, "momentum": 0.98}
    assert spread_after_training(build(**settings)) > 0.8 * start
    without = build(**settings)
    without.target_encoder = without.context_encoder.requires_grad_(True)
    assert spread_after_training(without) < 0.7 * start


# -- second phase -------------------------------------------------------------------------------------------------
def test_the_phase_changes_after_the_encoders_steps(build, batch):
    model = build()
    for step in (1, 2, 3):
        model.step_done(step)
        assert "masked" in model.losses(batch).terms
    for step in (4, 1):  # 1: a finished model is trained again
        model.step_done(step)
        assert set(model.losses(batch).terms) == {"teacher_forcing", "rollout"}


def test_the_second_phase_changes_neither_encoder(build, batches):
    model = build()
    optimizer = optimiser(model)
    train(model, batches, range(4), optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, batches, range(4, 7), optimizer)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {n for n, _ in model.named_parameters() if not n.startswith((*FIRST_PHASE, "target_encoder."))}


def test_the_second_phase_adds_teacher_forcing_and_rollout(trained, batch):
    losses = trained.losses(batch)
    z, a = trained.encode(batch), batch["action"][:, :3]
    predicted = trained.predict(z[:, :3], a)
    rolled = trained.rollout(z[:, :1], a[:, :0], a[:, None])[:, 0]
    torch.testing.assert_close(losses.outputs["predictions"], predicted)
    torch.testing.assert_close(losses.terms["teacher_forcing"], (predicted - z[:, 1:]).abs().mean())
    torch.testing.assert_close(losses.terms["rollout"], (rolled[:, 1] - z[:, 2]).abs().mean())
    torch.testing.assert_close(losses.total, losses.terms["teacher_forcing"] + losses.terms["rollout"])


def test_rollouts_reach_the_configured_frame_or_the_windows_last(build, batch):
    model = build(rollout_steps=3).eval()
    model.step_done(4)
    z, a = model.encode(batch), batch["action"]
    rolled = model.rollout(z[:, :1], a[:, :0], a[:, None, :3])[:, 0]
    torch.testing.assert_close(model.losses(batch).terms["rollout"], (rolled[:, 2] - z[:, 3]).abs().mean())
    short = model.losses({name: value[:, :2] for name, value in batch.items()})
    torch.testing.assert_close(short.terms["rollout"], short.terms["teacher_forcing"])


@torch.no_grad()
def test_predictions_do_not_see_later_frames_or_actions(trained, batch):
    z, a = trained.encode(batch)[:, :3], batch["action"][:, :3]
    base = trained.predict(z, a)
    for history in (1, 2):
        torch.testing.assert_close(trained.predict(z[:, :history], a[:, :history]), base[:, :history])
    for position in range(3):
        later_z, later_a = z.clone(), a.clone()
        later_z[:, position] = torch.flip(z[:, position], dims=[-1])
        later_a[:, position] -= 1.0
        for changed in (trained.predict(later_z, a), trained.predict(z, later_a)):
            torch.testing.assert_close(changed[:, :position], base[:, :position], atol=1e-6, rtol=1e-6)
            assert (changed[:, position] - base[:, position]).abs().max() > 1e-3


@pytest.mark.parametrize("history", [1, 2, 3])
@torch.no_grad()
def test_rollout_is_predict_applied_again_and_again(trained, batches, history):
    batch = batches(2, frames=3)
    z, past = trained.encode(batch)[:, :history], batch["action"][:, : history - 1]
    candidates = random(2, 4, 5, 6, seed=3)
    rolled = trained.rollout(z, past, candidates)
    assert rolled.shape == (2, 4, 5, 16, 12)
    for sample in range(4):
        frames, actions = z, torch.cat([past, candidates[:, sample]], dim=1)
        for now in range(history, history + 5):
            context = slice(max(0, now - 3), now)
            frames = torch.cat([frames, trained.predict(frames[:, context], actions[:, context])[:, -1:]], dim=1)
        torch.testing.assert_close(rolled[:, sample], frames[:, history:], atol=1e-5, rtol=1e-5)


def test_goal_cost_is_the_mean_absolute_difference(trained):
    predicted = random(2, 5, 16, 12)
    goal = predicted[:, 2]
    cost = trained.goal_cost(predicted, goal)
    assert torch.equal(cost[:, 2], torch.zeros(2))
    torch.testing.assert_close(cost[1, 4], (predicted[1, 4] - goal[1]).abs().sum() / (16 * 12))


@torch.no_grad()
def test_encoding_and_scoring_can_be_traced_for_any_batch(trained, batches):
    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = trained

        def forward(self, pixels, past, candidates):
            z = self.model.encode({"pixels": pixels})
            return self.model.goal_cost(self.model.rollout(z[:, :2], past, candidates)[:, :, -1], z[:, 2])

    def inputs(windows, samples):
        batch = batches(windows, frames=3)
        return batch["pixels"], batch["action"][:, :1], random(windows, samples, 2, 6, seed=6)

    windows, samples = torch.export.Dim("windows"), torch.export.Dim("samples")
    open_sizes = ({0: windows}, {0: windows}, {0: windows, 1: samples})
    traced = torch.export.export(Score(), inputs(2, 3), dynamic_shapes=open_sizes).module()
    torch.testing.assert_close(traced(*inputs(5, 4)), Score()(*inputs(5, 4)))


# -- training with Lightning --------------------------------------------------------------------------------------
class Windows(L.LightningDataModule):
    def __init__(self, make_batch, statistics):
        super().__init__()
        windows = make_batch(32)
        self.windows = [{name: value[i] for name, value in windows.items()} for i in range(32)]
        self.statistics = statistics
        names = {"image_size": 16, "frame_skip": 2, "action_dim": 3, "history": 3, "predictions": 1}
        self.spec = SimpleNamespace(**names)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.windows, batch_size=8)

    val_dataloader = train_dataloader


class Recorder(L.Callback):
    def __init__(self):
        self.losses, self.rates = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.losses.append(outputs["loss"].item())


class StopAfterEpoch(L.Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True


def fit(module, data, folder, *callbacks, ckpt_path=None, **changes):
    settings = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**settings, **quiet, **changes})
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("encoder_steps", [2, 6])
def test_resuming_in_either_phase_equals_never_stopping(batches, statistics, tmp_path, encoder_steps):
    """Stopped after four of twelve steps: in the second phase already, or in the middle of the first."""

    def fresh():
        torch.manual_seed(0)
        return VJEPA(config={**SMALL, "encoder_steps": encoder_steps}, optimizer={"lr": 1e-2})

    data, whole, stopped, resumed = Windows(batches, statistics), Recorder(), Recorder(), Recorder()
    uninterrupted, continued = fresh(), fresh()
    fit(uninterrupted, data, tmp_path, whole)
    fit(fresh(), data, tmp_path, stopped, StopAfterEpoch()).save_checkpoint(tmp_path / "half.ckpt")
    fit(continued, data, tmp_path, resumed, ckpt_path=tmp_path / "half.ckpt")
    assert len(whole.losses) == 12
    assert stopped.losses + resumed.losses == whole.losses
    assert all(torch.equal(v, continued.state_dict()[n]) for n, v in uninterrupted.state_dict().items())
    assert continued.model.encoder_done


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_best_checkpoint_is_of_the_second_phase_and_early_stopping_waits_for_it(batches, statistics, tmp_path):
    module, data = VJEPA(config={**SMALL, "encoder_steps": 9}, optimizer={"lr": 1e-2}), Windows(batches, statistics)
    best, stop = ModelCheckpoint(tmp_path / "best", monitor="val/loss"), EarlyStopping("val/loss", patience=1)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = fit(module, data, tmp_path, stop, best, max_epochs=4, enable_checkpointing=True, logger=logger)
    with open(tmp_path / "metrics.csv") as lines:
        rows = list(csv.DictReader(lines))
    first, second = ([float(row[name]) for row in rows if row[name]] for name in ("val/encoder_loss", "val/loss"))
    assert (len(first), len(second)) == (2, 2)
    assert max(first) < min(second)  # so that one name for both would not do
    assert best.best_model_score == pytest.approx(min(second))
    assert torch.load(best.best_model_path, weights_only=True)["state_dict"]["model.encoder_done"]
    assert trainer.global_step == 16


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_learning_rate_starts_anew_with_the_second_phase(batches, statistics, tmp_path):
    recorder = Recorder()
    fit(VJEPA(config=SMALL, optimizer={"lr": 1.0e-3}), Windows(batches, statistics), tmp_path, recorder)
    assert recorder.rates[0] == recorder.rates[4] == 1e-3
    assert recorder.rates[3] < 0.5e-3
    assert recorder.rates[11] < recorder.rates[5]


def make(*, trained, **changes):
    torch.manual_seed(0)
    module = VJEPA(config={**SMALL, **changes}, optimizer={"lr": 1.0e-3})
    if trained:
        module.model.step_done(module.model.config.encoder_steps)
    return module


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_trained_model_is_trained_further_in_one_cycle(batches, statistics, tmp_path):
    """In as many steps as its encoder once had; the guard's first steps are those of one phase."""
    recorder, guard = Recorder(), NumericalGuard()
    module = make(trained=True)
    before = {name: value.clone() for name, value in module.model.target_encoder.state_dict().items()}
    fit(module, Windows(batches, statistics), tmp_path, recorder, guard, max_epochs=1)
    expected = [warmup_cosine(step, steps=4, warmup_fraction=0.01) for step in range(4)]
    assert recorder.rates == pytest.approx([1e-3 * factor for factor in expected])
    assert all(torch.equal(value, before[name]) for name, value in module.model.target_encoder.state_dict().items())
    fit(make(trained=True), Windows(batches, statistics), tmp_path, guard, max_epochs=2)
    assert guard.state_dict()["_first"] == 12


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("trained", [True, False])
def test_a_resumed_fit_keeps_its_schedule(batches, statistics, tmp_path, trained):
    """Whatever the module that is handed over for the checkpoint to be loaded into."""
    data, whole, stopped = Windows(batches, statistics), Recorder(), Recorder()
    fit(make(trained=trained, encoder_steps=6), data, tmp_path, whole)
    half = fit(make(trained=trained, encoder_steps=6), data, tmp_path, stopped, StopAfterEpoch())
    half.save_checkpoint(tmp_path / "half.ckpt")
    for given in (True, False):
        resumed = Recorder()
        fit(make(trained=given, encoder_steps=6), data, tmp_path, resumed, ckpt_path=tmp_path / "half.ckpt")
        assert stopped.rates + resumed.rates == whole.rates
        assert stopped.losses + resumed.losses == whole.losses


def test_training_must_outlast_the_encoders_steps(batches, statistics, tmp_path):
    module, data = VJEPA(config={**SMALL, "encoder_steps": 12}), Windows(batches, statistics)
    with pytest.raises(ValueError, match="found 12 steps in all, 12 of them for the encoder alone"):
        fit(module, data, tmp_path)
    fit(module, data, tmp_path, fast_dev_run=True)


def test_saved_models_know_their_phase(trained, batch, tmp_path):
    module = VJEPA(config=trained.config)
    module.model.load_state_dict(trained.state_dict())
    loaded = from_pretrained(module.save_pretrained(tmp_path / "model"))
    assert isinstance(loaded, VJEPA)
    assert loaded.model.encoder_done
    assert torch.equal(loaded.losses(batch).total, trained.losses(batch).total)


# -- config -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 15}, "image_size: found 224, expected a multiple of patch_size, 15"),
        ({"vit_heads": 5}, "vit_width: found 192, expected a multiple of vit_heads, 5"),
        ({"mask_predictor_heads": 5}, "mask_predictor_width: found 96, expected a multiple of"),
        ({"mask_predictor_width": 4, "mask_predictor_heads": 1}, "mask_predictor_width: found 4, expected at least 6"),
        ({"hidden_fraction": 1.0}, "hidden_fraction: found 1.0 of 196 patches"),
        ({"hidden_fraction": 0.0}, "hidden_fraction: found 0.0 of 196 patches"),
        ({"momentum": 1.5}, "momentum: found 1.5"),
        ({"encoder_steps": 0}, "encoder_steps: found 0"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"encoder": "cnn"}, "unknown key 'encoder' for VJEPAConfig"),
    ],
)
def test_refuses_what_does_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        parse_config(VJEPAConfig, values, where="config")


def test_the_default_is_the_encoders_tiny_size():
    config = VJEPAConfig()
    assert (config.tokens, config.visible) == (196, 49)
    assert config.pretrain_steps == config.encoder_steps
    assert dataclasses.replace(config, encoder_steps=7).pretrain_steps == 7
