import dataclasses
from itertools import permutations

import pytest
import torch

from jepakit.zoo import CJEPA
from jepakit.zoo.cjepa.config import CJEPAConfig
from jepakit.zoo.cjepa.model import CJEPAModel
from jepakit.zoo.config import parse_config, plain_config

SIZES = {
    **{"image_size": 16, "frame_skip": 2, "action_dim": 3, "history": 3, "encoder": "features"},
    **{"slots": 4, "slot_dim": 12, "predictor_depth": 2, "predictor_heads": 2, "predictor_head_dim": 6},
    **{"predictor_mlp": 16, "dropout": 0.0, "mask_count": (1, 2), "short_share": 0.0},
}


def build(seed=0, **changes):
    torch.manual_seed(seed)
    model = CJEPAModel(CJEPAConfig(**{**SIZES, **changes}))
    torch.nn.init.normal_(model.predictor.mask_token)
    return model.eval()


@pytest.fixture(params=["nodes", "concatenated"])
def model(request):
    built = build(conditioning=request.param, proprio_dim=2)
    built.proprio_mean.copy_(torch.tensor([1.0, -2.0]))
    built.action_std.fill_(2.0)
    return built


def make_batch(windows=5, frames=4, slots=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(windows, frames, slots, 12, generator=generator),
        "proprio": torch.randn(windows, frames, 2, generator=generator),
        "action": torch.randn(windows, frames, 6, generator=generator),
    }


def random_actions(*shape, seed=3):
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(seed))


def permute_slots(latents, order):
    slots = latents[..., : len(order), :]
    return torch.cat([slots[..., order, :], latents[..., len(order) :, :]], dim=-2)


@torch.no_grad()
def test_latents_are_the_slots_and_proprioception_last(model):
    batch = make_batch()
    z = model.encode(batch)
    assert z.shape == (5, 4, 5, 12)
    assert torch.equal(z[:, :, :4], batch["features"])
    node = model.proprio_encoder(batch["proprio"] - torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(z[:, :, 4], node)
    assert build().encode(batch).shape == (5, 4, 4, 12)


@torch.no_grad()
def test_predictions_do_not_see_later_frames_or_actions(model):
    batch = make_batch()
    z, a = model.encode(batch)[:, :3], batch["action"][:, :3]
    base = model.predict(z, a)
    for position in range(3):
        later_z, later_a = z.clone(), a.clone()
        later_z[:, position] = torch.flip(z[:, position], dims=[-1])
        later_a[:, position] -= 1.0
        for changed in (model.predict(later_z, a), model.predict(z, later_a)):
            torch.testing.assert_close(changed[:, :position], base[:, :position], atol=1e-6, rtol=1e-6)
            assert (changed[:, position] - base[:, position]).abs().max() > 1e-3


@torch.no_grad()
def test_shorter_histories_are_prefixes_of_longer_ones(model):
    batch = make_batch()
    z, a = model.encode(batch)[:, :3], batch["action"][:, :3]
    whole = model.predict(z, a)
    for history in (1, 2):
        torch.testing.assert_close(model.predict(z[:, :history], a[:, :history]), whole[:, :history])


@torch.no_grad()
def test_the_last_position_is_what_training_predicts(model):
    """``predict`` and the two-way pass of the losses are one predictor."""
    batch = make_batch()
    model.config = dataclasses.replace(model.config, mask_count=(0, 0))
    losses = model.losses(batch)
    z = losses.outputs["latents"]
    predicted = model.predict(z[:, :3], batch["action"][:, :3])[:, -1:]
    torch.testing.assert_close(losses.outputs["predictions"], predicted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("history", [1, 2, 3])
@torch.no_grad()
def test_rollout_is_predict_applied_again_and_again(model, history):
    batch = make_batch(2)
    model.config = dataclasses.replace(model.config, rematch=False)
    z, past = model.encode(batch)[:, :history], batch["action"][:, : history - 1]
    candidates = random_actions(2, 4, 5)
    rolled = model.rollout(z, past, candidates)
    assert rolled.shape == (2, 4, 5, 5, 12)
    for sample in range(4):
        frames, actions = z, torch.cat([past, candidates[:, sample]], dim=1)
        for now in range(history, history + 5):
            context = slice(max(0, now - 3), now)
            following = model.predict(frames[:, context], actions[:, context])[:, -1:]
            frames = torch.cat([frames, following], dim=1)
        torch.testing.assert_close(rolled[:, sample], frames[:, history:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_several_future_frames_are_predicted_and_the_first_is_kept():
    model = build(future=3)
    batch = make_batch(frames=6)
    losses = model.losses(batch)
    assert losses.outputs["predictions"].shape == (5, 3, 4, 12)
    changed = {**batch, "action": batch["action"].clone()}
    changed["action"][:, 3:] += 1.0
    assert torch.equal(model.losses(changed).total, losses.total)
    z, past = model.encode(batch)[:, :3], batch["action"][:, :2]
    candidates = random_actions(5, 2, 4)
    first = model.rollout(z, past, candidates)
    candidates[:, :, 2] += 1.0
    later = model.rollout(z, past, candidates)
    assert torch.equal(first[:, :, :2], later[:, :, :2])
    assert (first[:, :, 2] - later[:, :, 2]).abs().max() > 1e-3


@torch.no_grad()
def test_rematching_gives_every_slot_its_place_back(model):
    """Slots that a predictor returns in another order come back in the one of the frame before."""
    z, candidates = model.encode(make_batch(2))[:, :1], random_actions(2, 3, 4)
    model.predict_next = lambda z, a: permute_slots(z[:, -1] + 0.01, [2, 0, 3, 1])
    rolled = model.rollout(z, z.new_zeros(2, 0, 6), candidates)
    for block in range(4):
        expected = z + 0.01 * (block + 1)
        torch.testing.assert_close(rolled[:, :, block], expected.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("slots", [4, 6])
@pytest.mark.parametrize("conditioning", ["nodes", "concatenated"])
@pytest.mark.parametrize("rematch", [True, False])
@torch.no_grad()
def test_slots_are_exchangeable(slots, conditioning, rematch):
    model = build(slots=slots, conditioning=conditioning, proprio_dim=2, rematch=rematch)
    batch, order = make_batch(3, slots=slots), torch.randperm(slots, generator=torch.Generator().manual_seed(1))
    z, a = model.encode(batch), batch["action"]
    candidates = random_actions(3, 2, 3)
    predicted = model.predict(z[:, :3], a[:, :3])
    torch.testing.assert_close(
        model.predict(permute_slots(z[:, :3], order), a[:, :3]), permute_slots(predicted, order), atol=1e-5, rtol=1e-5
    )
    rolled = model.rollout(z[:, :3], a[:, :2], candidates)
    other = model.rollout(permute_slots(z[:, :3], order), a[:, :2], candidates)
    torch.testing.assert_close(other, permute_slots(rolled, order), atol=1e-5, rtol=1e-5)
    cost = model.goal_cost(rolled[:, :, -1], z[:, 3])
    for shuffled in (
        model.goal_cost(other[:, :, -1], z[:, 3]),
        model.goal_cost(rolled[:, :, -1], permute_slots(z[:, 3], order)),
    ):
        torch.testing.assert_close(shuffled, cost, atol=1e-5, rtol=1e-5)
    assert (permute_slots(predicted, order) - predicted).abs().max() > 1e-2


def test_goal_cost_is_the_least_over_all_orders(model):
    predicted = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(5))
    goal = permute_slots(predicted[:, 1], [3, 1, 0, 2])
    cost = model.goal_cost(predicted, goal)
    assert torch.equal(cost[:, 1], torch.zeros(2))
    slots = min((predicted[1, 2, list(p)] - goal[1, :4]).square().mean() for p in permutations(range(4)))
    torch.testing.assert_close(cost[1, 2], slots + (predicted[1, 2, 4] - goal[1, 4]).square().mean())


def test_the_objective_is_hidden_plus_future_plus_proprioception(model):
    z = torch.randn(2, 4, 5, 12, generator=torch.Generator().manual_seed(6))
    a = model.embed_actions(random_actions(2, 3))
    hidden = torch.tensor([[True, False, False, True], [False, True, False, False]])
    losses = model.objective(z, a, hidden)
    predicted = model.predictor(torch.cat([z[:, :3], a.unsqueeze(2)], dim=2), hidden)
    error = (predicted - z).square()
    torch.testing.assert_close(
        losses.terms["hidden"],
        torch.cat([error[0, 1:3, [0, 3]].flatten(), error[1, 1:3, [1]].flatten()]).mean(),
    )
    torch.testing.assert_close(losses.terms["future"], error[:, 3, :4].mean())
    torch.testing.assert_close(losses.terms["proprio"], error[:, 3, 4].mean())
    torch.testing.assert_close(losses.total, sum(losses.terms.values()))


def test_targets_are_detached(model):
    z = torch.randn(2, 4, 5, 12, generator=torch.Generator().manual_seed(6), requires_grad=True)
    model.objective(z, model.embed_actions(random_actions(2, 3)), torch.zeros(1, 4, dtype=torch.bool)).total.backward()
    assert torch.equal(z.grad[:, 3], torch.zeros(2, 5, 12))
    assert z.grad[:, :3].abs().max() > 0


@torch.no_grad()
def test_hidden_slots_are_hidden_but_for_frame_0(model):
    """What a hidden slot does later changes no prediction; what it was at first, and conditions, do."""
    batch = make_batch(2)
    z, hidden = model.encode(batch), torch.tensor([[False, True, False, False]])

    def predict(z, a):
        return model.predictor(torch.cat([z[:, :3], model.embed_actions(a[:, :3]).unsqueeze(2)], dim=2), hidden)

    base = predict(z, batch["action"])
    later, first, moved, pushed = z.clone(), z.clone(), z.clone(), batch["action"].clone()
    later[:, 1:3, 1] += 1.0
    first[:, 0, 1] += 1.0
    moved[:, 1, 4] += 1.0
    pushed[:, 1] += 1.0
    assert torch.equal(predict(later, batch["action"]), base)
    for changed in (predict(first, batch["action"]), predict(moved, batch["action"]), predict(z, pushed)):
        assert (changed - base).abs().max() > 1e-3


def test_without_masking_it_is_oc_jepa(model):
    model.config = dataclasses.replace(model.config, mask_count=(0, 0))
    losses = model.losses(make_batch())
    assert losses.terms["hidden"] == 0.0
    assert losses.terms["future"] > 0.0


@torch.no_grad()
def test_slots_may_be_stored_in_half_precision(model):
    batch = make_batch()
    half = {**batch, "features": batch["features"].half()}
    z = model.encode(half)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, model.encode(batch), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.losses(half).total, model.losses(batch).total, atol=0, rtol=1e-2)
    model.rollout(z[:, :1], batch["action"][:, :0], batch["action"].unsqueeze(1))
    with pytest.raises(ValueError, match=r"features: found torch\.int64, expected floating-point slots"):
        model.encode({**batch, "features": batch["features"].long()})


def test_the_step_draws_the_masks(model):
    batch = make_batch()
    first, again, other = (model.losses(batch, step).total for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@torch.no_grad()
@pytest.mark.parametrize("future", [1, 2])
def test_what_is_predicted_for_a_user_is_the_next_latents_of_every_frame(future):
    module = CJEPA({**SIZES, "future": future}).eval()
    torch.nn.init.normal_(module.model.predictor.mask_token)
    batch = make_batch(frames=3 + future)
    found = module.predict_step({**batch, "episode": torch.arange(5), "start": torch.arange(5)}, 0)
    z, a, last = batch["features"], batch["action"], 2 + future
    assert torch.equal(found["latents"], z)
    assert found["predictions"].shape == (5, last, 4, 12)
    torch.testing.assert_close(found["predictions"][:, :3], module.predict(z[:, :3], a[:, :3]))
    ending = slice(last - 3, last)
    torch.testing.assert_close(found["predictions"][:, -1], module.predict(z[:, ending], a[:, ending])[:, -1])


@torch.no_grad()
def test_nothing_is_predicted_for_a_user_before_the_encoder_is_trained():
    module = CJEPA({**SIZES, "encoder": "slot_attention", "slot_channels": 4, "slot_hidden": 8}).eval()
    batch = {"pixels": torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8), "action": random_actions(2, 4)}
    batch |= {"episode": torch.arange(2), "start": torch.arange(2)}
    assert module.predict_step(batch, 0).keys() == {"latents", "episode", "start"}


def test_training_shows_shorter_histories_too():
    """They start with a window's first frame, whose slots a planner's first frame also has."""
    model = build(short_share=0.5).train()
    shown, z = [], make_batch()["features"]
    model.objective = lambda z, a, hidden: shown.append((z, a.shape[1])) or build().objective(z, a, hidden)
    for step in range(60):
        assert model.losses(make_batch(), step).outputs["latents"].shape[1] == shown[-1][1] + 1
    assert all(torch.equal(seen, z[:, : length + 1]) for seen, length in shown)
    lengths = [length for _, length in shown]
    assert set(lengths) == {1, 2, 3}
    assert 18 < lengths.count(3) < 42
    shown.clear()
    model.eval()
    for step in range(20):
        model.losses(make_batch(), step)
    assert {length for _, length in shown} == {3}


def test_predictions_are_those_of_the_last_latents_also_of_short_histories():
    model = build(short_share=0.5).train()
    frames = set()
    for step in range(10):
        losses = model.losses(make_batch(), step)
        z, predicted = losses.outputs["latents"], losses.outputs["predictions"]
        frames.add(z.shape[1])
        error = (predicted - z[:, -predicted.shape[1] :]).square().mean()
        torch.testing.assert_close(error, losses.terms["future"])
    assert len(frames) > 1


def test_a_short_history_is_the_end_of_a_long_one():
    """The future keeps its time: the embeddings of the missing frames are not read."""
    model, batch = build(), make_batch()
    before = model.predict(batch["features"][:, :1], batch["action"][:, :1])
    with torch.no_grad():
        model.predictor.times[:, :2] += 1.0
    assert torch.equal(model.predict(batch["features"][:, :1], batch["action"][:, :1]), before)


@pytest.mark.parametrize("conditioning", ["nodes", "concatenated"])
@pytest.mark.parametrize("proprio_dim", [0, 2])
def test_gradients_reach_every_parameter(conditioning, proprio_dim):
    model = build(conditioning=conditioning, proprio_dim=proprio_dim).train()
    model.losses(make_batch()).total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_count": (0, 4)}, r"mask_count: found \[0, 4\], expected 0 <= fewest <= most < slots, 4"),
        ({"mask_count": (2, 1)}, r"mask_count: found \[2, 1\]"),
        ({"slots": 13}, "slots: found 13, expected at most 12"),
        ({"short_share": 1.0}, "short_share: found 1.0"),
        ({"encoder": "oracle", "oracle_objects": ((0, 1),)}, "oracle_objects: found 1 objects .* expected 4"),
        ({"encoder": "oracle", "oracle_objects": ((0,), (1,), (2,), ())}, "oracle_objects: found 4 objects"),
        (
            {"encoder": "oracle", "oracle_objects": ((0,), (1,), (2,), (3,)), "oracle_angles": (2,)},
            "oracle_angles: object 2 has its angles in other places",
        ),
        ({"future": 0}, "future: found 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CJEPAConfig(**{**SIZES, **changes})


def test_configs_survive_json():
    config = CJEPAConfig(**{**SIZES, "encoder": "oracle", "oracle_objects": ((0, 1), (2, 3), (4,), (5,))})
    assert parse_config(CJEPAConfig, plain_config(config), where="config") == config


@torch.no_grad()
def test_bad_input_is_named(model):
    batch = make_batch()
    z = model.encode(batch)
    with pytest.raises(ValueError, match=r"latents: found shape .* expected .* 1 to 3 frames, the trained history"):
        model.predict(z, batch["action"])
    with pytest.raises(ValueError, match="found windows of 5 frames, expected 2 to 4"):
        model.losses({name: torch.cat([value, value[:, :1]], dim=1) for name, value in batch.items()})
    with pytest.raises(ValueError, match=r"found keys .*, expected 'features', which the object encoder 'features'"):
        model.encode({"pixels": torch.zeros(1, 1, 16, 16, 3, dtype=torch.uint8)})
    with pytest.raises(ValueError, match=r"found 'features' of \(3, 12\) per frame, expected \(4, 12\)"):
        model.encode({**batch, "features": batch["features"][:, :, :3]})
    with pytest.raises(ValueError, match=r"proprio: found only .*, expected \(5, 4, 2\)"):
        model.encode({"features": batch["features"]})


@pytest.mark.parametrize("slots", [6])
def test_encoding_and_scoring_can_be_traced_for_any_batch(slots):
    """What the export relies on: no control flow that depends on values, batch sizes left open; matching included."""

    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = build(slots=slots, predictor_depth=1)

        def forward(self, features, past, candidates):
            z = self.model.encode({"features": features})
            return self.model.goal_cost(self.model.rollout(z[:, :2], past, candidates)[:, :, -1], z[:, 2])

    def inputs(windows, samples):
        batch = make_batch(windows, frames=3, slots=slots)
        return batch["features"], batch["action"][:, :1], random_actions(windows, samples, 2)

    windows, samples = torch.export.Dim("windows"), torch.export.Dim("samples")
    open_sizes = ({0: windows}, {0: windows}, {0: windows, 1: samples})
    with torch.no_grad():
        score = Score()
        traced = torch.export.export(score, inputs(2, 3), dynamic_shapes=open_sizes).module()
        other = inputs(5, 4)
        torch.testing.assert_close(traced(*other), score(*other))
