"""Shared slots: never overwritten while anybody looks, free as soon as nobody does."""

import gc

import pytest
import torch

from jepakit.datamodules import EpisodeDataModule
from jepakit.datamodules.shared import BatchSlots, Field, FilledSlot

FIELDS = {"pixels": Field("uint8", (2, 3)), "action": Field("float32", (5,)), "episode": Field("int64", ())}


def make_slots(per_worker=2):
    slots = BatchSlots(FIELDS, batch_size=3, workers=2, per_worker=per_worker)
    slots.begin_round()
    return slots


def fill(slots, worker, value, windows=3):
    slot = slots.claim(worker)
    for array in slots.arrays(slot, windows).values():
        array[...] = value
    return FilledSlot(slot, windows)


def test_a_batch_is_what_was_filled_in():
    slots = make_slots()
    first, second = fill(slots, 0, 7), fill(slots, 1, 9, windows=2)
    batch, last = slots.open(first), slots.open(second)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in last.items()} == {
        "pixels": (torch.uint8, (2, 2, 3)),
        "action": (torch.float32, (2, 5)),
        "episode": (torch.int64, (2,)),
    }
    assert all((value == 7).all() for value in batch.values())
    assert all((value == 9).all() for value in last.values())


def test_a_slot_is_free_when_the_last_view_is_gone():
    slots = make_slots(per_worker=1)
    batch = slots.open(fill(slots, 0, 1))
    assert slots.claim(0) is None
    view = batch["pixels"][1].view(-1)[2:].numpy()
    del batch
    gc.collect()
    assert slots.claim(0) is None
    assert (view == 1).all()
    del view
    gc.collect()
    assert slots.claim(0) == 0
    assert slots.claim(1) == 1  # each process has its own


def test_batches_that_nobody_opened_are_given_up_in_the_next_round():
    slots = make_slots(per_worker=2)
    held = slots.open(fill(slots, 0, 1))
    fill(slots, 0, 2)
    assert slots.claim(0) is None
    slots.begin_round()
    assert slots.claim(0) == 1
    assert (held["pixels"] == 1).all()


@pytest.fixture
def make_loader(tiny_store):
    def make(**options):
        data = EpisodeDataModule(str(tiny_store), image_size=32, batch_size=16, **options)
        data.setup()
        return data.train_dataloader()

    return make


def copy_of(loader, **changes):
    names = ("dataset", "batch_size", "sampler", "drop_last", "num_workers", "persistent_workers", "collate_fn")
    return type(loader)(**{**{name: getattr(loader, name) for name in names}, **changes})


@pytest.mark.parametrize("persistent", [True, False])
def test_kept_batches_are_not_overwritten_and_epochs_may_be_left_early(make_loader, persistent):
    alone = [batch["pixels"].clone() for batch in make_loader()]
    loader = copy_of(make_loader(num_workers=2), persistent_workers=persistent)
    for _ in range(3):
        batches = iter(loader)
        kept = [next(batches) for _ in range(5)]  # the rest of the epoch is left
        for found, expected in zip(kept, alone, strict=False):
            assert torch.equal(found["pixels"], expected)
    kept = list(loader)  # more than there are slots
    for found, expected in zip(kept, alone, strict=True):
        assert torch.equal(found["pixels"], expected)


def test_two_iterators_of_one_data_set_do_not_disturb_each_other(make_loader):
    alone = [batch["pixels"].clone() for batch in make_loader()]
    first = make_loader(num_workers=1)
    second = copy_of(make_loader(num_workers=1), dataset=first.dataset)
    for a, b, expected in zip(first, second, alone, strict=True):
        assert torch.equal(a["pixels"], expected)
        assert torch.equal(b["pixels"], expected)


def test_slots_are_used_again(make_loader):
    loader = make_loader(num_workers=2)
    addresses = [batch["pixels"].data_ptr() for _ in range(2) for batch in loader]
    assert len(set(addresses)) <= 12 < len(addresses)


def test_spawned_processes_share_too(make_loader, monkeypatch, tiny_store):
    from jepakit.datamodules.store import EpisodeStore

    monkeypatch.setattr(EpisodeStore, "fork_safe", False)
    loader = make_loader(num_workers=1)
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    for found, expected in zip(loader, make_loader(), strict=True):
        for name, value in expected.items():
            assert torch.equal(found[name], value)
    assert loader._slots is not None


def test_an_error_in_a_loader_process_arrives_and_frees_its_slot(make_loader, monkeypatch):
    from jepakit.datamodules.store import EpisodeStore

    loader = make_loader(num_workers=1)
    monkeypatch.setattr(EpisodeStore, "read", lambda *_: (_ for _ in ()).throw(ValueError("episode 3 is broken")))
    with pytest.raises(ValueError, match="episode 3 is broken"):
        next(iter(loader))
    assert (loader._slots._state == 0).all()
