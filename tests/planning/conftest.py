import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy():
    """The module ``point_mass`` beside this file (test folders are not packages)."""
    spec = importlib.util.spec_from_file_location("point_mass", Path(__file__).with_name("point_mass.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
