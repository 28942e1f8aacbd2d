"""A small generated data set that the tests of this folder share."""

import pytest
from hypothesis import HealthCheck, settings

from jepakit.datamodules.collect import Collection, collect

settings.register_profile(
    "seeded", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("seeded")


@pytest.fixture(scope="session")
def tiny_collection():
    return Collection(
        env="jepakit.envs.tworoom:TwoRoom",
        policy="jepakit.envs.tworoom:TwoRoomExplorer",
        episodes=30,
        steps=40,
        image_size=32,
    )


@pytest.fixture(scope="session")
def tiny_store(tiny_collection, tmp_path_factory):
    return collect(tiny_collection, tmp_path_factory.mktemp("data"), workers=1)
