"""A small generated data set that the tests of this folder share."""

import sys
from pathlib import Path

import pytest

from jepakit.datamodules import Collisions, TwoRoom
from jepakit.datamodules.base import Generate
from jepakit.datamodules.collect import Collection, collect

sys.path.insert(0, str(Path(__file__).parent))  # for oracle.py


@pytest.fixture(scope="session")
def tworoom_collection():
    return Collection(
        env="jepakit.envs.tworoom:TwoRoom",
        policy="jepakit.envs.tworoom:TwoRoomExplorer",
        episodes=12,
        steps=24,
        image_size=32,
    )


@pytest.fixture(scope="session")
def tworoom_store(tworoom_collection, tmp_path_factory):
    return collect(tworoom_collection, tmp_path_factory.mktemp("data"), workers=1)


@pytest.fixture
def data(tworoom_store):
    module = TwoRoom(str(tworoom_store), image_size=32, batch_size=4, val_share=0.3, test_share=0.2)
    module.setup("fit")
    return module


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    generate = Generate(root=str(tmp_path_factory.mktemp("scenes")), episodes=20, steps=40, workers=1)
    module = Collisions(generate=generate, image_size=16, frame_skip=5, history=2, val_share=0.2, test_share=0.4)
    module.prepare_data()
    module.setup("fit")
    return module
