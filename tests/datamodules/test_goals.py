"""Goal pairs: which there are, what they hold."""

import numpy as np
import pytest
import torch

from jepakit.datamodules import TwoRoom
from jepakit.datamodules.goals import GoalDataset, Goals
from jepakit.datamodules.store import EpisodeStore


@pytest.fixture
def data(tiny_store):
    def make(**changes):
        module = TwoRoom(str(tiny_store), image_size=32, batch_size=16, goals=Goals(max_offset=7, steps=10), **changes)
        module.setup("fit")
        return module

    return make


def everything(dataset):
    return dataset.__getitems__(range(len(dataset)))


def test_every_pair_within_reach_is_there_once(data):
    module = data()
    batch = everything(module.dataset("train"))
    pairs = list(zip(*(batch[name].tolist() for name in ("episode", "start", "offset")), strict=True))
    expected = {
        (episode, start, offset)
        for episode in module.parts["train"].tolist()
        for start in range(module.source.lengths[episode])
        for offset in range(1, 8)
        if start + offset < module.source.lengths[episode]
    }
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected


def test_a_pair_is_two_frames_and_the_actions_from_the_first_on(data, tiny_store):
    module, store = data(), EpisodeStore(tiny_store)
    dataset = module.dataset("train")
    some = np.random.default_rng(0).choice(len(dataset), 50, replace=False)
    batch = dataset.__getitems__([*some, len(dataset) - 1])
    mean = torch.from_numpy(module.statistics.action_mean[:2])
    for row in range(len(batch["offset"])):
        episode, start, offset = (int(batch[name][row]) for name in ("episode", "start", "offset"))
        first, length = store.offsets[episode], store.lengths[episode]
        frames = store.read("pixels", np.array([first + start, first + start + offset]))
        np.testing.assert_array_equal(batch["pixels"][row], frames)
        states = store.read("state", np.array([first + start, first + start + offset]))
        np.testing.assert_array_equal(batch["state"][row], states)
        left = min(10, length - 1 - start)  # the last row of an episode has no action
        actions = store.read("action", first + start + np.arange(left))
        np.testing.assert_array_equal(batch["action"][row, :left], actions)
        assert torch.equal(batch["action"][row, left:], mean.expand(10 - left, 2))
    assert batch["action"].shape[1:] == (10, 2)


def test_validation_starts_do_not_overlap(data):
    batch = everything(data().dataset("val"))
    assert set(batch["start"].tolist()) == {0, 10, 20, 30}


def test_the_loader_shuffles_pairs_and_resumes(data):
    first = [batch["start"].tolist() for batch in data().train_dataloader()]
    again = data().train_dataloader()
    batches = iter(again)
    head = [next(batches)["start"].tolist() for _ in range(3)]
    resumed = data().train_dataloader()
    resumed.load_state_dict(again.state_dict())
    assert head + [batch["start"].tolist() for batch in resumed] == first
    assert first[0] != sorted(first[0])


def test_episodes_of_different_lengths(tiny_store):
    store = EpisodeStore(tiny_store)

    class Cut:
        """The same episodes, some of them shorter."""

        path, columns, offsets, read = store.path, store.columns, store.offsets, store.read
        lengths = np.minimum(store.lengths, np.resize([1, 2, 9, 40], len(store.lengths)))

    dataset = GoalDataset(
        Cut, np.arange(4), Goals(max_offset=3, steps=2), last_action=np.zeros(2, np.float32), columns=("pixels",)
    )
    assert dataset.counts.tolist() == [0, 1, 7 * 3 - 3 + 3, 39 * 3 - 3]
    batch = everything(dataset)
    assert (batch["start"] + batch["offset"] < torch.from_numpy(Cut.lengths)[batch["episode"]]).all()


def test_broken_actions_are_named(data):
    module = data()
    dataset = module.dataset("train")
    read = module.source.read

    def broken(name, rows, out=None):
        values = read(name, rows) if out is None else read(name, rows, out)
        if name == "action":
            values[:] = np.nan
        return values

    dataset.source = type(
        "Broken",
        (),
        {
            "read": staticmethod(broken),
            **{name: getattr(module.source, name) for name in ("path", "columns", "offsets", "lengths")},
        },
    )
    with pytest.raises(ValueError, match=r"column 'action' of episode .*: found NaN or infinity after step 0"):
        dataset[0]


def test_pairs_of_one_distance_only(tiny_store):
    module = TwoRoom(str(tiny_store), image_size=32, batch_size=16, goals=Goals(min_offset=4, max_offset=4, steps=4))
    module.setup("fit")
    dataset = module.dataset("train")
    batch = everything(dataset)
    assert set(batch["offset"].tolist()) == {4}
    assert len(dataset) == sum(module.source.lengths[episode] - 4 for episode in module.parts["train"])


def test_a_range_must_not_be_empty():
    with pytest.raises(ValueError, match=r"goals.max_offset: found 3, expected at least min_offset = 4"):
        Goals(min_offset=4, max_offset=3)


def test_nearest_goals_beyond_the_episodes_are_refused(tiny_store):
    store = EpisodeStore(tiny_store)
    store.lengths[1:] = 10
    for nearest, episodes in ((9, [1, 2]), (10, [0, 1])):
        goals = Goals(min_offset=nearest, max_offset=20)
        assert len(GoalDataset(store, np.array(episodes), goals, last_action=np.zeros(2, np.float32)))
    with pytest.raises(ValueError, match=r"goals\.min_offset: found 10, expected at most 9, .* longest of 2 episodes"):
        GoalDataset(store, np.array([1, 2]), goals, last_action=np.zeros(2, np.float32))


@pytest.mark.parametrize("values", [{"min_offset": 0}, {"steps": 0}])
def test_wrong_settings_are_refused(values):
    with pytest.raises(ValueError, match=f"goals.{next(iter(values))}: found 0, expected at least 1"):
        Goals(**values)


def test_goals_beyond_the_longest_episode_are_refused(tiny_store):
    longest = int(EpisodeStore(tiny_store).lengths.max()) - 1
    for farthest in (longest, longest + 1):
        module = TwoRoom(str(tiny_store), image_size=32, goals=Goals(max_offset=farthest))
        module.setup("fit")
        if farthest == longest:
            assert everything(module.dataset("train"))["offset"].max() == longest
            continue
        with pytest.raises(ValueError, match=rf"goals.max_offset: found {farthest}, expected at most {longest}, "):
            module.dataset("train")
