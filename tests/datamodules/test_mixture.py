"""Mixtures: every data set split by itself, drawn by weight, standardised as drawn."""

import json

import numpy as np
import pytest
from lightning.pytorch.cli import LightningArgumentParser

from jepakit.datamodules import Mixture, MixturePart
from jepakit.datamodules.collect import Collection, collect
from jepakit.datamodules.mixture import ConcatenatedSource
from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter

LENGTHS = {"a": [30] * 10, "b": [25, 21, 40, 33, 28]}


def write(path, lengths, *, seed, size=16, cameras=(), extra=()):
    columns = {
        "pixels": Column(dtype="uint8", shape=(size, size, 3)),
        **{f"pixels_{name}": Column(dtype="uint8", shape=(8, 12, 3)) for name in cameras},
        "action": Column(dtype="float32", shape=(2,)),
        **{name: Column(dtype="float32", shape=(3,)) for name in extra},
    }
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, columns, shard_bytes=40_000) as writer:
        for length in lengths:
            episode = {name: rng.uniform(0, 200, (length, *c.shape)).astype(c.dtype) for name, c in columns.items()}
            episode["action"] = (rng.standard_normal((length, 2)) * (seed + 1) + seed).astype(np.float32)
            episode["action"][-1] = np.nan
            writer.append(episode)
    return str(path)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    return {
        "a": write(root / "a", LENGTHS["a"], seed=0, cameras=("wrist",), extra=("state",)),
        "b": write(root / "b", LENGTHS["b"], seed=1, cameras=("wrist",)),
    }


def make_mixture(paths, weights=(1.0, 3.0), **options):
    parts = [MixturePart(data=path, weight=weight) for path, weight in zip(paths.values(), weights, strict=True)]
    module = Mixture(parts, **{"image_size": 16, "batch_size": 16, **options})
    module.setup()
    return module


def test_rows_and_episodes_are_those_of_the_parts(paths):
    parts = [EpisodeStore(path) for path in paths.values()]
    source = ConcatenatedSource(parts)
    assert source.lengths.tolist() == LENGTHS["a"] + LENGTHS["b"]
    assert set(source.columns) == {"pixels", "pixels_wrist", "action"}  # only one part has states
    rows = np.random.default_rng(0).integers(0, source.lengths.sum(), 50)
    for name in source.columns:
        whole = np.concatenate([part.read(name, np.arange(part.lengths.sum())) for part in parts])
        np.testing.assert_array_equal(source.read(name, rows), whole[rows])
        np.testing.assert_array_equal(source.read(name, rows % 300), whole[rows % 300])
    with pytest.raises(KeyError, match="state"):
        source.read("state", rows)


def test_every_part_is_split_by_itself(paths):
    parts = make_mixture(paths, val_share=0.2, test_share=0.2).parts
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(15))
    for name in ("val", "test"):
        assert [(parts[name] < 10).sum(), (parts[name] >= 10).sum()] == [2, 1]


def test_batches_follow_the_weights_and_hold_every_camera(paths):
    module = make_mixture(paths, columns=("pixels_wrist",))
    loader = module.train_dataloader()
    batches = list(loader)
    assert batches[0]["pixels_wrist"].shape == (16, 4, 8, 12, 3)
    episodes = np.concatenate([batch["episode"] for batch in batches])
    share = (episodes >= 10).mean()
    assert abs(share - 0.75) < 0.05
    assert set(episodes) <= set(module.parts["train"].tolist())
    assert [b["start"].tolist() for b in loader] == [b["start"].tolist() for b in batches]


def test_a_place_among_other_weights_is_refused(paths):
    loader = make_mixture(paths).train_dataloader()
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    make_mixture(paths).train_dataloader().load_state_dict(state)
    with pytest.raises(ValueError, match=r"'weights': \[1\.0, 3\.0\].* now it is .*'weights': \[1\.0, 4\.0\]"):
        make_mixture(paths, weights=(1.0, 4.0)).train_dataloader().load_state_dict(state)


def test_statistics_are_those_of_what_is_drawn(paths):
    module = make_mixture(paths)
    train = module.parts["train"]
    actions = []
    for episodes in (train[train < 10], train[train >= 10]):
        rows = np.concatenate([module.source.offsets[e] + np.arange(module.source.lengths[e] - 1) for e in episodes])
        actions.append(module.source.read("action", rows).astype(np.float64))
    drawn = np.random.default_rng(0)
    sample = np.concatenate([drawn.choice(a, n) for a, n in zip(actions, (100_000, 300_000), strict=True)])
    np.testing.assert_allclose(module.statistics.action_mean[:2], sample.mean(0), atol=0.02)
    np.testing.assert_allclose(module.statistics.action_std[:2], sample.std(0), atol=0.02)
    np.testing.assert_allclose(module.statistics.action_low, np.concatenate(actions).min(0))


def test_worker_processes_see_the_same_mixture(paths):
    alone, loaded = (make_mixture(paths, num_workers=n).train_dataloader() for n in (0, 2))
    for expected, found in zip(alone, loaded, strict=True):
        np.testing.assert_array_equal(found["pixels"], expected["pixels"])


def test_parts_that_do_not_fit_together_are_named(paths, tmp_path):
    other = write(tmp_path / "other", [30] * 4, seed=2, size=24)
    with pytest.raises(ValueError, match=r"other: column 'pixels': found uint8 rows of \(24, 24, 3\), expected uint8"):
        make_mixture({"a": paths["a"], "other": other})
    plain = write(tmp_path / "plain", [30] * 4, seed=2)
    with pytest.raises(ValueError, match="plain: column 'pixels_wrist' not found"):
        make_mixture({"a": paths["a"], "plain": plain}, columns=("pixels_wrist",))
    short = write(tmp_path / "short", [10] * 4, seed=2)
    module = make_mixture({"a": paths["a"], "short": short})
    with pytest.raises(ValueError, match=r"short: no training episode has the 20 steps"):
        module.train_dataloader()
    with pytest.raises(ValueError, match="weight of x: found 0"):
        MixturePart(data="x", weight=0)
    with pytest.raises(ValueError, match="found none"):
        Mixture([])


def test_generated_parts_that_begin_with_the_same_episodes_are_refused(tmp_path):
    def make(episodes, seed=0):
        settings = Collection(
            env="jepakit.envs.tworoom:TwoRoom",
            policy="jepakit.envs.tworoom:TwoRoomExplorer",
            episodes=episodes,
            steps=25,
            image_size=16,
            seed=seed,
        )
        return str(collect(settings, tmp_path, workers=1))

    first = make(4)
    make_mixture({"a": first, "again": first})
    make_mixture({"a": first, "other": make(5, seed=1)})
    with pytest.raises(ValueError, match=r"expected another seed: they begin with the same episodes"):
        make_mixture({"a": first, "more": make(5)})


def test_a_mixture_can_be_written_in_a_configuration(paths):
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Mixture, "data")
    settings = {"parts": [{"data": paths["a"], "weight": 2}, {"data": paths["b"]}], "columns": ["pixels_wrist"]}
    module = parser.instantiate_classes(parser.parse_object({"data": settings})).data
    assert [(part.data, part.weight) for part in module.mixture] == [(paths["a"], 2), (paths["b"], 1.0)]
    assert module.columns == ("pixels_wrist",)
