from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from jepakit.zoo.cjepa.masking import draw_hidden, draw_history
from jepakit.zoo.cjepa.matching import SlotMatcher
from jepakit.zoo.cjepa.oracle import OracleEncoder
from jepakit.zoo.trainable import step_generator


def draw(step=0, windows=400, slots=4, count=(0, 2), per="sample", seed=0):
    return draw_hidden(windows, slots, count=count, per=per, generator=step_generator(seed, step))


def test_masks_follow_from_seed_and_step():
    assert torch.equal(draw(step=3), draw(step=3))
    assert not torch.equal(draw(step=3), draw(step=4))
    assert not torch.equal(draw(step=3), draw(step=3, seed=1))


def test_every_set_of_slots_is_as_likely():
    """A fixed number hides every pair equally often; a varying one has every number equally often."""
    pairs = Counter(tuple(np.flatnonzero(row)) for row in draw(windows=6000, count=(2, 2)).numpy())
    assert len(pairs) == 6
    assert all(abs(number - 1000) < 150 for number in pairs.values())
    numbers = Counter(draw(windows=6000, count=(0, 2)).sum(dim=1).tolist())
    assert numbers.keys() == {0, 1, 2}
    assert all(abs(number - 2000) < 200 for number in numbers.values())


def test_one_mask_for_the_batch_still_changes_from_step_to_step():
    masks = [draw(step, count=(1, 1), per="batch") for step in range(200)]
    assert {tuple(mask.shape) for mask in masks} == {(1, 4)}
    hidden = Counter(int(mask.flatten().nonzero()) for mask in masks)
    assert hidden.keys() == {0, 1, 2, 3}
    assert min(hidden.values()) > 30


def test_samples_differ_within_a_step():
    assert len({tuple(row.tolist()) for row in draw(count=(1, 1))}) == 4


def test_short_histories_are_drawn_as_often_as_asked():
    drawn = Counter(draw_history(4, short_share=0.3, generator=step_generator(0, step)) for step in range(2000))
    assert drawn.keys() == {1, 2, 3, 4}
    assert abs(drawn[4] / 2000 - 0.7) < 0.05
    assert all(abs(drawn[length] / 2000 - 0.1) < 0.03 for length in (1, 2, 3))
    assert draw_history(1, short_share=0.9, generator=step_generator(0, 0)) == 1


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 6, 8])
def test_matching_is_the_optimal_assignment(slots):
    generator = torch.Generator().manual_seed(slots)
    found, reference = torch.randn(2, 3, 20, slots, 7, generator=generator)
    order = SlotMatcher(slots)(found, reference)
    for index in np.ndindex(3, 20):
        squared = torch.cdist(reference[index], found[index]).square()
        assert order[index].tolist() == linear_sum_assignment(squared.numpy())[1].tolist()


@pytest.mark.parametrize("slots", [4, 6])
def test_matching_undoes_any_permutation(slots):
    matcher = SlotMatcher(slots)
    reference = torch.randn(slots, 5, generator=torch.Generator().manual_seed(0))
    for order in list(permutations(range(slots)))[::7]:
        assert torch.equal(matcher.match(reference[None, list(order)], reference[None])[0], reference)


def test_matching_is_no_part_of_the_weights():
    assert SlotMatcher(4).state_dict() == SlotMatcher(6).state_dict() == {}


@pytest.mark.parametrize("slots", [4, 6])
def test_matching_can_be_traced_for_any_batch(slots):
    class Match(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matcher = SlotMatcher(slots)

        def forward(self, found, reference):
            return self.matcher.match(found, reference)

    found, reference = torch.randn(2, 8, slots, 3, generator=torch.Generator().manual_seed(0))
    batch = {0: torch.export.Dim("batch")}
    traced = torch.export.export(Match(), (found[:3], reference[:3]), dynamic_shapes=(batch, batch)).module()
    assert torch.equal(traced(found, reference), SlotMatcher(slots).match(found, reference))


def oracle(objects=((0, 1, 2), (3, 4, 5), (6, 7)), angles=(2, 5)):
    return OracleEncoder(objects, angles=angles, slot_dim=16, seed=0)


def states(rows=50, seed=0):
    return torch.randn(rows, 1, 8, generator=torch.Generator().manual_seed(seed)) * 3 + 5


def test_objects_of_a_kind_share_a_projection_and_kinds_do_not():
    state = states()
    swapped = state[..., [3, 4, 5, 0, 1, 2, 6, 7]]
    slots = oracle()(state)
    assert slots.shape == (50, 1, 3, 16)
    assert torch.equal(oracle()(swapped), slots[:, :, [1, 0, 2]])
    same = OracleEncoder(((0, 1), (0, 1)), angles=(), slot_dim=16, seed=0)(state)
    assert torch.equal(same[:, :, 0], same[:, :, 1])
    assert (oracle(((0, 1), (0, 1, 2)), (2,))(state).diff(dim=2).abs() > 1e-3).any()


def test_slots_keep_the_order_of_the_config():
    state = states()
    mixed = oracle(((6, 7), (0, 1, 2), (3, 4, 5)))(state)
    assert torch.equal(mixed, oracle()(state)[:, :, [2, 0, 1]])


def test_an_absent_object_has_the_empty_slot_and_no_other_has():
    state = states()
    state[::2, :, 3:6] = 0.0
    slots = oracle()(state)
    assert torch.equal(slots[::2, :, 1], torch.zeros(25, 1, 16))
    assert slots[1::2].norm(dim=-1).min() > 0.3


def test_states_can_be_read_back_and_angles_turn():
    encoder, state = oracle(), states()
    state[::2, :, 3:6] = 0.0
    encoder.fit(state.squeeze(1))
    slots = encoder(state)
    present = torch.cat([state[:, 0, :2], state[1::2, 0, 3:5]])  # plain columns of both, where they are
    kind = encoder.kinds[1]
    torch.testing.assert_close(kind.mean, present.mean(dim=0))
    torch.testing.assert_close(kind.std, present.std(dim=0, correction=0))
    read = slots[:, 0, 0] @ torch.linalg.pinv(kind.projection)
    torch.testing.assert_close(read[:, :2] * kind.std + kind.mean, state[:, 0, :2], atol=1e-4, rtol=1e-4)
    turned = state.clone()
    turned[..., 2] += 2 * torch.pi
    torch.testing.assert_close(encoder(turned), slots, atol=1e-4, rtol=1e-4)


def test_constant_columns_say_nothing_and_empty_scenes_are_refused():
    encoder, state = oracle(), states()
    state[..., 0] = 7.0
    state[..., 3] = 7.0
    encoder.fit(state.squeeze(1))
    assert encoder(state).isfinite().all()
    with pytest.raises(ValueError, match="state: found no object in the training episodes"):
        encoder.fit(torch.zeros(5, 8))
