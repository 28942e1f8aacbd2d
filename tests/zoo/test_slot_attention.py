import pytest
import torch
import torch.nn.functional as F

from jepakit.zoo.layers.slot_attention import SlotAttention, SlotAutoencoder, moving, spread
from jepakit.zoo.layers.slot_decoders import BroadcastDecoder, SlotMixer, SoftPositions
from jepakit.zoo.layers.slot_features import FeatureSlotAutoencoder, temporal_similarity


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(**changes):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "slots": 3, "slot_dim": 12, "channels": 8, "hidden": 16, "iterations": 2, **changes}
    return SlotAutoencoder(**sizes)


@pytest.mark.parametrize("seen", [False, True])
@torch.no_grad()
def test_one_iteration_follows_algorithm_1(seen):
    torch.manual_seed(0)
    layer = SlotAttention(6, 5, hidden=7, seen=seen)
    inputs, slots = random(2, 9, 6), random(2, 3, 5, seed=1)
    key, value = layer.to_kv(layer.input_norm(inputs)).split(5, dim=-1)
    query = layer.to_q(layer.slot_norm(slots))
    attention = torch.einsum("mld,mnd->mln", key, query).div(5**0.5).softmax(dim=-1)  # over slots
    weights = attention / attention.sum(dim=1, keepdim=True)  # a weighted mean over positions
    updates = torch.einsum("mln,mld->mnd", weights, value)
    after = torch.stack([layer.gru(update, slot) for update, slot in zip(updates, slots, strict=True)])
    found, state = layer(inputs, slots, iterations=1)
    carried = after if seen else after + layer.mlp(after)
    torch.testing.assert_close(state, carried, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, updates + layer.mlp(updates) if seen else carried, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_seen_slots_are_what_they_look_at_however_long_they_looked():
    """Otherwise a goal, encoded alone, is not what the same picture is at a clip's end."""
    torch.manual_seed(0)
    layer, inputs = SlotAttention(6, 5, hidden=7, seen=True), random(2, 9, 6)
    layer.to_q.weight.zero_()  # all look everywhere
    once, start = layer(inputs, random(2, 3, 5, seed=1), iterations=1)
    later, state = layer(inputs, start, iterations=30)
    torch.testing.assert_close(later, once)
    assert not torch.allclose(state, start, atol=0.1)


@pytest.mark.parametrize("seen", [False, True])
@torch.no_grad()
def test_slots_are_exchangeable_and_positions_without_order(seen):
    torch.manual_seed(0)
    layer, order = SlotAttention(6, 5, hidden=7, seen=seen), [2, 0, 1]
    inputs, slots = random(2, 9, 6), random(2, 3, 5, seed=1)
    for changed, out, other in zip(
        layer(inputs, slots[:, order], iterations=3),
        layer(inputs, slots, iterations=3),
        layer(inputs.flip(1), slots, iterations=3),
        strict=True,
    ):
        torch.testing.assert_close(changed, out[:, order])
        torch.testing.assert_close(other, out)


def test_what_moves_weighs_more_in_the_reconstruction():
    frames = torch.zeros(2, 4, 3, 16, 16)
    for frame in range(4):
        frames[0, frame, 1, 3, 2 * frame] = 1.0  # a green dot that walks; the second clip is still
    weights = moving(frames, motion=1.0)
    assert weights[0].mean().item() == pytest.approx(1.0)
    path = torch.zeros(16, 16, dtype=torch.bool)
    path[3, 0:8:2] = True
    assert weights[0, :, 0][:, path].sum().item() == pytest.approx(weights[0].numel() / 2, rel=0.02)
    torch.testing.assert_close(weights[1], torch.full_like(weights[1], 0.5))
    model = tiny(image_size=16)
    plain, weighed = (model.losses(frames, motion=motion) for motion in (0.0, 3.0))
    rebuilt = plain.outputs["reconstruction"]
    torch.testing.assert_close(plain.total, F.mse_loss(rebuilt, frames))
    torch.testing.assert_close(weighed.total, (moving(frames, 3.0) * (rebuilt - frames).square()).mean())


@torch.no_grad()
def test_a_clip_is_encoded_by_itself_in_training_and_evaluation_alike():
    model, frames = tiny(), random(2, 3, 3, 16, 16)
    trained = model.encode(frames)
    torch.testing.assert_close(model.eval().encode(frames[1:]), trained[1:])


@pytest.mark.parametrize("seen", [False, True])
def test_only_the_last_iteration_teaches_and_it_teaches_the_start(seen):
    torch.manual_seed(0)
    layer, inputs = SlotAttention(6, 5, hidden=7, seen=seen), random(2, 9, 6)
    start = random(2, 3, 5, seed=1).requires_grad_()
    with torch.no_grad():
        _, before = layer(inputs, start, iterations=2)
    learned, _ = layer(inputs, start, iterations=3, learn_start=True)
    torch.testing.assert_close(learned, layer(inputs, start, iterations=3)[0])
    (slope,) = torch.autograd.grad(learned.square().sum(), start)
    last = before.requires_grad_()
    (expected,) = torch.autograd.grad(layer(inputs, last, iterations=1)[0].square().sum(), last)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)


def test_an_object_that_two_slots_share_is_spread_wider():
    one, two = torch.zeros(2, 1, 2, 3, 4, 4)
    for masks, slots in ((one, (1, 1)), (two, (1, 2))):
        masks[0, :, 0] = 1
        for row, slot in enumerate(slots):  # a 2 × 2 object, whole or in halves
            masks[0, :, 0, row, :2] = 0
            masks[0, :, slot, row, :2] = 1
    torch.testing.assert_close(spread(one), torch.tensor((12 / 16) ** 0.5 + (4 / 16) ** 0.5 + 0.01), atol=1e-3, rtol=0)
    torch.testing.assert_close(spread(two), torch.tensor((12 / 16) ** 0.5 + 2 * (2 / 16) ** 0.5), atol=1e-3, rtol=0)


@torch.no_grad()
def test_slots_are_carried_from_frame_to_frame():
    model, frames = tiny(later_iterations=2).eval(), random(1, 1, 3, 16, 16).expand(-1, 2, -1, -1, -1)
    first, second = model.encode(frames).unbind(1)
    longer = tiny(iterations=4).eval().encode(frames[:, :1])[:, 0]  # the same picture: two more iterations
    torch.testing.assert_close(second, longer)
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("decoder", [BroadcastDecoder(16, 12, channels=8), SlotMixer(4, 12, hidden=8, width_out=5)])
@torch.no_grad()
def test_decoders_share_pixels_among_slots_whatever_their_order(decoder):
    if isinstance(decoder, BroadcastDecoder):
        torch.nn.init.normal_(decoder.paint.weight)
    slots = 3 * random(2, 3, 12)
    pictures, masks = decoder(slots)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones_like(masks[:, 0]))
    other_pictures, other_masks = decoder(slots[:, [1, 2, 0]])
    torch.testing.assert_close(other_pictures, pictures)
    torch.testing.assert_close(other_masks, masks[:, [1, 2, 0]])


@torch.no_grad()
def test_a_pixel_is_painted_by_the_slot_whose_mask_has_it():
    torch.manual_seed(0)
    decoder, slots = BroadcastDecoder(16, 12, channels=8), random(2, 3, 12)
    decoder.paint.weight.normal_(std=0.3)  # it starts at 0
    torch.nn.init.normal_(decoder.paint.weight)
    decoder.paint.weight[3 * 16 :] *= 1e4  # masks without compromise
    picture, masks = decoder(slots)
    alone = torch.stack([decoder(slots[:, [n]])[0] for n in range(3)], dim=1)
    chosen = masks.argmax(dim=1)
    assert chosen.unique().tolist() == [0, 1, 2]
    expected = alone.gather(1, chosen[:, None, None].expand(-1, -1, 3, -1, -1)).squeeze(1)
    clear = (masks.amax(dim=1, keepdim=True) > 0.9999).expand_as(picture)
    torch.testing.assert_close(picture[clear], expected[clear], atol=1e-3, rtol=1e-3)


def test_losses_are_the_error_of_what_is_returned_and_reach_every_parameter():
    model, frames = tiny(), random(2, 2, 3, 16, 16)
    torch.nn.init.normal_(model.decoder.paint.weight, std=0.3)  # it starts at 0, where nothing else has a gradient
    losses = model.losses(frames)
    pictures, masks = model.decode(losses.outputs["slots"])
    torch.testing.assert_close(losses.total, F.mse_loss(pictures, frames))
    torch.testing.assert_close(model.losses(frames, merging=0.5).total, losses.total + 0.5 * spread(masks))
    torch.testing.assert_close(losses.outputs["masks"], masks)
    losses.total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_first_picture_is_the_mean_colour_of_training_frames():
    model = tiny()
    frames = random(2, 2, 3, 16, 16) + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    for batch in (frames[:1], frames[1:]):
        model.losses(batch)
    mean = frames.mean(dim=(0, 1, 3, 4))
    torch.testing.assert_close(model.mean_colour.flatten(), mean)
    model.eval().losses(frames + 5)
    picture, masks = model.decode(model.encode(frames))
    torch.testing.assert_close(picture, mean.view(3, 1, 1).expand_as(frames))
    torch.testing.assert_close(masks, torch.full_like(masks, 1 / 3))


def test_it_can_be_exported():
    model, frames = tiny().eval(), random(2, 2, 3, 16, 16)

    class Encode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, frames):
            return self.model.encode(frames)

    program = torch.export.export(Encode(), (frames,), dynamic_shapes=({0: torch.export.Dim("clips", max=64)},))
    more = random(5, 2, 3, 16, 16, seed=1)
    torch.testing.assert_close(program.module()(more), model.encode(more))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="image_size: found 20, expected a multiple"):
        tiny(image_size=20)


def test_temporal_similarity_points_where_patches_went():
    features = torch.eye(4)[None, None].repeat(1, 2, 1, 1)
    features[:, 1] = features[:, 1].roll(1, dims=1)  # every patch moves one place on
    where = temporal_similarity(features, temperature=0.05)
    assert where.shape == (1, 1, 4, 4)
    torch.testing.assert_close(where.sum(dim=-1), torch.ones(1, 1, 4))
    assert where.argmax(dim=-1).flatten().tolist() == [1, 2, 3, 0]
    against = temporal_similarity(torch.stack([features[:, 0], -features[:, 0]], dim=1), temperature=0.05)
    assert (against.diagonal(dim1=-2, dim2=-1) == 0).all()
    opposite = torch.stack([torch.ones(1, 4, 2), -torch.ones(1, 4, 2)], dim=1)
    torch.testing.assert_close(temporal_similarity(opposite, temperature=0.05), torch.full((1, 1, 4, 4), 0.25))


def features_of_two_objects(clips, frames=2, grid=4):
    """Two moving objects and a ground, with features of their own beside those of the place."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.zeros(clips, frames, grid, grid, dtype=torch.long)
    for clip in shown:
        first, second = torch.randperm(grid, generator=generator)[:2].tolist()
        for frame, labels in enumerate(clip):
            labels[first, frame : frame + 2], labels[second, 2 - frame : 4 - frame] = 1, 2
    place = SoftPositions(grid, 4).places[:, -8:].unflatten(0, (grid, grid)).expand(clips, frames, -1, -1, -1)
    return torch.cat([2 * random(3, 6, seed=3)[shown], place], dim=-1).flatten(2, 3)


def test_slots_of_features_learn_both_tasks():
    torch.manual_seed(0)
    model = FeatureSlotAutoencoder(grid=4, feature_dim=14, slots=3, slot_dim=16, hidden=32)
    features = features_of_two_objects(16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.losses(features).total.backward()
        optimizer.step()
    losses = model.losses(features)
    uniform = torch.tensor(16.0).log()
    without_slots = (features - features.mean(dim=(0, 1))).square().mean()
    assert losses.terms["reconstruction"] < 0.95 * without_slots  # the best that a constant can do
    assert losses.terms["similarity"] < uniform - 0.2
    torch.testing.assert_close(losses.total, losses.terms["reconstruction"] + 0.1 * losses.terms["similarity"])
    rebuilt, masks = model.decode(losses.outputs["slots"])
    torch.testing.assert_close(F.mse_loss(rebuilt, features), losses.terms["reconstruction"])
    torch.testing.assert_close(masks.sum(dim=2), torch.ones(16, 2, 16))


def test_similarity_needs_a_next_frame():
    model = FeatureSlotAutoencoder(grid=4, feature_dim=14, slots=3, slot_dim=16, hidden=32)
    with pytest.raises(ValueError, match="clips of 1 frame"):
        model.losses(random(2, 1, 16, 14))
