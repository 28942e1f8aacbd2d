"""A small generated data set that the tests of this folder share."""

import pytest

from jepakit.datamodules.collect import Collection, collect


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
