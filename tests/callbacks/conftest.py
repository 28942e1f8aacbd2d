"""A small generated data set that the tests of this folder share."""

import sys
from pathlib import Path

import pytest

from jepakit.datamodules import TwoRoom
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
