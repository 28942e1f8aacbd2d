"""The order of windows: complete, deterministic, shared without overlap, resumable in the middle of an epoch."""

import json
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepakit.datamodules import EpisodeDataModule
from jepakit.datamodules.sampling import EpochOrder, WindowSampler

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def windows_of(batches):
    return [list(zip(batch["episode"].tolist(), batch["start"].tolist(), strict=True)) for batch in batches]


def make_data(path, **options):
    module = EpisodeDataModule(str(path), image_size=32, **{"batch_size": 64, **options})
    module.setup()
    return module


# -- orders ---------------------------------------------------------------------------------------------------------


@given(size=st.integers(1, 200), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_an_epoch_visits_every_window_once(size, seed, epoch):
    order = EpochOrder(sizes=(size,), seed=seed)
    assert sorted(order.indices(epoch)) == list(range(size))
    np.testing.assert_array_equal(order.indices(epoch), EpochOrder(sizes=(size,), seed=seed).indices(epoch))


def test_orders_differ_by_epoch_and_seed():
    def order(seed, epoch):
        return EpochOrder(sizes=(100,), seed=seed).indices(epoch).tolist()

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert EpochOrder(sizes=(5,)).indices(7).tolist() == [0, 1, 2, 3, 4]


@given(size=st.integers(4, 100), world_size=st.integers(1, 4), epoch=st.integers(0, 3), even=st.booleans())
def test_shares_are_disjoint_and_as_large_as_promised(size, world_size, epoch, even):
    order = EpochOrder(sizes=(size,), seed=0)
    shares = []
    for rank in range(world_size):
        sampler = WindowSampler(order, rank=rank, world_size=world_size, even=even)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    visited = [index for share in shares for index in share]
    assert len(set(visited)) == len(visited)
    assert {len(share) for share in shares} <= (
        {size // world_size} if even else {size // world_size, -(-size // world_size)}
    )
    assert len(visited) == (size - size % world_size if even else size)


def test_steps_hold_the_same_windows_for_any_number_of_processes():
    order = EpochOrder(sizes=(96,), seed=0)
    alone = list(WindowSampler(order))
    pair = [list(WindowSampler(order, rank=rank, world_size=2)) for rank in range(2)]
    for step in range(12):
        together = {index for share in pair for index in share[4 * step : 4 * step + 4]}
        assert together == set(alone[8 * step : 8 * step + 8])


@given(sizes=SIZES, data=st.data())
def test_weights_are_shares_of_the_epoch_and_no_window_comes_twice_before_all_came(sizes, data):
    weights = tuple(data.draw(st.floats(0.1, 10)) for _ in sizes)
    order = EpochOrder(sizes=tuple(sizes), seed=1, weights=weights)
    begins = np.cumsum([0, *sizes])
    epochs = [order.indices(epoch) for epoch in range(4)]
    visits = np.bincount(np.concatenate(epochs), minlength=sum(sizes))
    for k, weight in enumerate(weights):
        counts = [int(((epoch >= begins[k]) & (epoch < begins[k + 1])).sum()) for epoch in epochs]
        assert all(abs(count - sum(sizes) * weight / sum(weights)) < 1 for count in counts)
        mine = visits[begins[k] : begins[k + 1]]
        assert mine.max() - mine.min() <= 1
    assert {len(epoch) for epoch in epochs} == {sum(sizes)}


def test_bad_weights_are_refused():
    for weights in ((1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="expected 2 positive numbers"):
            EpochOrder(sizes=(3, 3), seed=0, weights=weights)


# -- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_continues_where_its_state_was_taken(tiny_store, num_workers):
    def loader():
        return make_data(tiny_store, num_workers=num_workers).train_dataloader()

    first = loader()
    first.sampler.set_epoch(3)
    whole = windows_of(first)
    assert len(whole) == len(first)
    first.sampler.set_epoch(3)
    batches = iter(first)
    begun = windows_of(next(batches) for _ in range(3))
    second = loader()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert begun + windows_of(second) == whole
    assert len(windows_of(second)) == len(whole)  # the next pass is a whole one


def test_a_finished_epoch_is_followed_by_the_next(tiny_store):
    first, second = (make_data(tiny_store).train_dataloader() for _ in range(2))
    windows_of(first)
    second.load_state_dict(first.state_dict())
    first.sampler.set_epoch(1)
    assert windows_of(second) == windows_of(first)


def test_a_place_in_another_epoch_of_batches_is_refused(tiny_store):
    loader = make_data(tiny_store).train_dataloader()
    next(iter(loader))
    for change in ({"batch_size": 32}, {"seed": 1}, {"frame_skip": 4}):
        other = make_data(tiny_store, **change).train_dataloader()
        with pytest.raises(ValueError, match="saved in the middle of an epoch"):
            other.load_state_dict(loader.state_dict())


def test_whether_an_epoch_was_over_is_what_it_was_when_saved(tiny_store):
    def loader(batch_size=64, epoch=0):
        made = make_data(tiny_store, batch_size=batch_size).train_dataloader()
        made.sampler.set_epoch(epoch)
        return made

    first = loader()
    batches = iter(first)
    begun = windows_of(next(batches) for _ in range(len(first) - 2))
    with pytest.raises(ValueError, match="saved in the middle of an epoch"):
        loader(batch_size=2 * 64).load_state_dict(first.state_dict())  # with fewer batches than were handed out
    older = first.state_dict()
    del older["total"], older["weights"], older["counted"]
    second = loader()
    second.load_state_dict(older)
    assert begun + windows_of(second) == windows_of(loader())
    windows_of(batches)
    smaller = loader(batch_size=32)  # with more
    smaller.load_state_dict(first.state_dict())
    assert windows_of(smaller) == windows_of(loader(batch_size=32, epoch=1))


class Recorder(L.LightningModule):
    """Trains nothing, remembers the windows of every step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch):
        self.seen += windows_of([batch])
        return self.weight.sum()

    def validation_step(self, batch):
        pass

    def predict_step(self, batch):
        return windows_of([batch])[0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEveryStep(L.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"epoch={trainer.current_epoch}.ckpt")


def fit(path, folder, *, num_workers, steps, resume=None, **options):
    module = Recorder()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[SaveEveryStep(folder)],
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data = EpisodeDataModule(str(path), image_size=32, batch_size=64, num_workers=num_workers)
    trainer.fit(module, data, ckpt_path=resume)
    return module.seen


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_resumes_with_exactly_the_remaining_batches(tiny_store, tmp_path, num_workers):
    epoch = len(make_data(tiny_store).train_dataloader())
    whole = fit(tiny_store, tmp_path, num_workers=0, steps=2 * epoch + 2)
    assert len({tuple(batch) for batch in whole}) == 2 * epoch + 2
    for stop in (3, epoch, epoch + 2):  # inside the first epoch, at its end, inside the second
        checkpoint = tmp_path / f"step={stop}.ckpt"
        rest = fit(tiny_store, tmp_path / "rest", num_workers=num_workers, steps=2 * epoch + 2, resume=checkpoint)
        assert rest == whole[stop:]


def test_lightning_resumes_epochs_that_were_cut_short(tiny_store, tmp_path):
    options = {"num_workers": 0, "steps": 8, "limit_train_batches": 3}
    whole = fit(tiny_store, tmp_path, **options)
    assert whole[3] not in whole[:3]
    for stop in (2, 3, 4):
        checkpoint = tmp_path / f"step={stop}.ckpt"
        assert fit(tiny_store, tmp_path / "rest", resume=checkpoint, **options) == whole[stop:]


@pytest.mark.parametrize("limit", [3, 1.0])
def test_lightning_resumes_from_ends_of_epochs_again_and_again(tiny_store, tmp_path, limit):
    options = {"num_workers": 0, "limit_train_batches": limit}
    epoch = len(make_data(tiny_store).train_dataloader()) if limit == 1.0 else limit
    options["steps"] = 3 * epoch + 1
    whole = fit(tiny_store, tmp_path, **options)
    assert len({tuple(batch) for batch in whole}) == len(whole)
    rest = fit(tiny_store, tmp_path / "rest", resume=tmp_path / "epoch=0.ckpt", **options)
    assert rest == whole[epoch:]
    for stop in (epoch + 1, 2 * epoch):
        checkpoint = tmp_path / "rest" / f"step={stop}.ckpt"
        assert fit(tiny_store, tmp_path / "third", resume=checkpoint, **options) == whole[stop:]
    third = fit(tiny_store, tmp_path / "third", resume=tmp_path / "rest" / "epoch=1.ckpt", **options)
    assert third == whole[2 * epoch :]


def test_overfitting_repeats_the_same_batches(tiny_store, tmp_path):
    with pytest.warns(UserWarning, match="requested to overfit"):
        seen = fit(tiny_store, tmp_path, num_workers=0, steps=4, overfit_batches=2)
    assert seen[:2] == seen[2:]


def test_predictions_are_about_every_test_window(tiny_store):
    module = Recorder()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    data = EpisodeDataModule(str(tiny_store), image_size=32, batch_size=4, num_workers=1)
    assert [window for batch in trainer.predict(module, data) for window in batch] == [
        (int(episode), start) for episode in data.parts["test"] for start in (0, 20)
    ]


# -- several processes ----------------------------------------------------------------------------------------------


def test_two_lightning_processes_share_the_windows(tiny_store, tmp_path):
    program = Path(__file__).with_name("ddp_recorder.py")
    result = subprocess.run(
        [sys.executable, program, tiny_store, tmp_path], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    alone = make_data(tiny_store, batch_size=32).train_dataloader()
    whole = make_data(tiny_store, batch_size=64).train_dataloader()
    for epoch in range(2):
        whole.sampler.set_epoch(epoch)
        expected = [{tuple(window) for window in batch} for batch in windows_of(whole)]
        steps = list(zip(*(rank["train"][epoch] for rank in ranks), strict=True))
        assert len(steps) == len(alone) // 2 == len(expected)
        for pair, both in zip(steps, expected, strict=True):
            assert {tuple(window) for batch in pair for window in batch} == both
            assert sum(map(len, pair)) == len(both)  # nothing twice
    for name, drops in (("val", 1), ("predict", 0)):
        visited = [tuple(window) for rank in ranks for batch in rank[name] for window in batch]
        dataset = make_data(tiny_store).dataset("val" if name == "val" else "test")
        assert len(set(visited)) == len(visited)
        assert len(dataset) - drops <= len(visited) <= len(dataset)
    assert {rank["sampler"] for rank in ranks} == {"WindowSampler"}
