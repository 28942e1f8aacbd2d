"""Counterfactuals and impossible physics, for models whose truth is known: their latents are the scene's state."""

import numpy as np
import pytest
import torch
from oracle import Oracle, ProprioConfig, prepared

from jepakit.callbacks import CounterfactualProbe, PhysicsProbe
from jepakit.callbacks.scenes import rendered
from jepakit.datamodules import Collisions
from jepakit.datamodules.base import Generate
from jepakit.envs.collisions import Collisions as Scene
from jepakit.envs.scene import FIELDS, X
from jepakit.zoo.base import WorldModel

SMALL = {"cases": 6}
CONFIG = ProprioConfig(proprio_dim=4, image_size=16, frame_skip=5, history=2)


class Simulator(WorldModel):
    """Knows the scene and its laws; ``blind`` to other objects, it lets all of them pass through each other."""

    name = "simulator"
    blind = False

    def __init__(self, config=CONFIG):
        super().__init__(config)
        self.scene = Scene(image_size=16)

    def encode(self, observation):
        return observation["state"].unsqueeze(2)

    def follow(self, state, blocks):
        ghosts = range(self.scene.slots) if self.blind else ()
        path = self.scene.resimulate(state.double().numpy(), blocks * 5, ghosts=ghosts)
        return torch.from_numpy(path.states[4::5]).float()

    def predict(self, latents, actions):
        return torch.stack([torch.stack([self.follow(state, 1) for state in row[:, 0]]) for row in latents])

    def rollout(self, latents, past_actions, candidates):
        ahead = [self.follow(row[-1, 0], candidates.shape[2]).unsqueeze(1) for row in latents]
        return torch.stack(ahead).unsqueeze(1)

    def goal_cost(self, predicted, goal):
        places = [slot * len(FIELDS) + field for slot in range(self.scene.slots) for field in (X, X + 1)]
        return (predicted - goal.unsqueeze(1))[..., places].square().sum(dim=(2, 3))


class Blind(Simulator):
    name = "blind"
    blind = True


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    generate = Generate(root=str(tmp_path_factory.mktemp("scenes")), episodes=20, steps=40, workers=1)
    module = Collisions(generate=generate, image_size=16, frame_skip=5, history=2, val_share=0.2, test_share=0.4)
    module.prepare_data()
    module.setup("fit")
    return module


def test_who_knows_the_laws_knows_what_would_be(scenes, tmp_path):
    found = CounterfactualProbe(**SMALL).measure(prepared(Simulator(), scenes), scenes, tmp_path)
    assert found["cf_gain"] == pytest.approx(1.0, abs=1e-6)
    assert found["floor"] < found["cf_gain"]
    assert 0 < found["share"] < 1


def test_who_does_not_know_them_does_worse(scenes, tmp_path):
    found = CounterfactualProbe(**SMALL).measure(prepared(Blind(), scenes), scenes, tmp_path)
    assert found["cf_gain"] < 0.99


def test_the_impossible_surprises_who_knows_the_laws(scenes, tmp_path):
    found = PhysicsProbe(**SMALL).measure(prepared(Simulator(), scenes), scenes, tmp_path)
    for kind in ("ghost", "frozen"):
        assert found[f"{kind}/auroc"] == 1.0
        assert found[f"{kind}/ratio"] > 10
    assert (tmp_path / "physics.png").is_file()


def test_ghosts_do_not_surprise_who_knows_nothing_else(scenes, tmp_path):
    found = PhysicsProbe(**SMALL).measure(prepared(Blind(), scenes), scenes, tmp_path)
    assert found["ghost/ratio"] < 1.0  # the possible clip is the strange one
    assert found["frozen/ratio"] > 1.0


def test_clips_are_drawn_as_the_data_are(scenes):
    source, environment = scenes.source, Scene(image_size=16)
    rows = source.offsets[3] + np.arange(4)
    states = source.read("state", rows).astype(np.float64)
    clips = rendered(environment, states[None], prepared(Simulator(), scenes))
    for name in ("pixels", "proprio", "state"):
        np.testing.assert_array_equal(clips[name][0], source.read(name, rows), err_msg=name)
    assert clips["action"].shape == (1, 4, 10)


def test_other_data_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="PhysicsProbe: found data of TwoRoom, expected Collisions or Gravity"):
        PhysicsProbe().measure(prepared(Oracle(), data), data, tmp_path)


def test_scenes_in_which_nothing_meets_are_named(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("jepakit.callbacks.scenes.MATTERS", 1e9)
    with pytest.raises(ValueError, match=r"CounterfactualProbe.cases: found fewer than 2 that matter in 200 draws"):
        CounterfactualProbe(cases=2).measure(prepared(Simulator(), scenes), scenes, tmp_path)
