import subprocess
import sys

import pytest

import jepakit.zoo
from jepakit.zoo import WorldModel, WorldModelConfig, WorldModelModule
from jepakit.zoo.module import TrainingModule
from jepakit.zoo.registry import REGISTRY, lookup


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_entry_loads_and_knows_its_name(name):
    entry = lookup(name)
    assert entry.model_class().name == name
    is_world_model = name not in ("controller", "distance", "macro")
    assert issubclass(entry.model_class(), WorldModel) is is_world_model
    assert issubclass(entry.config_class(), WorldModelConfig) is is_world_model
    assert issubclass(entry.module_class(), WorldModelModule) is is_world_model
    assert issubclass(entry.module_class(), TrainingModule)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"model: found 'lewn', expected one of \[.*'lewm'"):
        lookup("lewn")


@pytest.mark.parametrize("name", jepakit.zoo.__all__)
def test_every_public_name_resolves(name):
    assert getattr(jepakit.zoo, name).__name__ == name


def test_unknown_public_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'LeWN'"):
        _ = jepakit.zoo.LeWN


def test_importing_the_zoo_imports_neither_torch_nor_lightning():
    code = (
        "import sys, jepakit.zoo, jepakit.zoo.registry; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_pure_model_and_its_weights_load_without_lightning():
    code = "import sys; from jepakit.zoo import LeWMModel, load_model; print('lightning' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
