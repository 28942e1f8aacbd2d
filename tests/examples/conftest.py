import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def load(file):
    """A script as a module (test and example folders are not packages)."""
    spec = importlib.util.spec_from_file_location(f"loaded_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example():
    return lambda name: load(ROOT / "examples" / f"{name}.py")


@pytest.fixture(scope="session")
def exact():
    return load(Path(__file__).with_name("exact_bundle.py"))


@pytest.fixture(scope="session")
def bundle(exact, tmp_path_factory):
    return exact.write_bundle(tmp_path_factory.mktemp("bundles") / "exact")
