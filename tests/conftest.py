import importlib.util
from pathlib import Path

import pytest

# Tests of the extra `mujoco`, which `all-cpu` leaves out; .ci/run installs it and so runs them.
HAS_MUJOCO = importlib.util.find_spec("mujoco") is not None
# Likewise the extra `tensorrt-test`.
HAS_TENSORRT = all(importlib.util.find_spec(name) for name in ("tensorrt_rtx", "tensorrt_lean_bindings"))
_MUJOCO = [f"envs/test_{name}.py" for name in ("mujoco_scene", "reacher", "cube")]
_TENSORRT = ["export/test_tensorrt*.py", "export/runtime/test_tensorrt*.py", "cli/test_engine.py"]
collect_ignore_glob = ([] if HAS_MUJOCO else _MUJOCO) + ([] if HAS_TENSORRT else _TENSORRT)


def pytest_report_header(config):
    missing = {"mujoco": HAS_MUJOCO, "tensorrt-test": HAS_TENSORRT}
    return [
        f"deselected: tests of the extra {name} (pip install -e '.[{name}]')" for name in missing if not missing[name]
    ]


def pytest_collection_modifyitems(config, items):
    if not HAS_MUJOCO:
        dropped = [item for item in items if item.get_closest_marker("mujoco")]
        items[:] = [item for item in items if not item.get_closest_marker("mujoco")]
        config.hook.pytest_deselected(items=dropped)


def pytest_addoption(parser):
    _release_option(parser, "--fixtures")  # pytest's own listing of fixtures stays reachable as --funcargs
    parser.addoption(
        "--fixtures",
        dest="fixtures_dir",
        metavar="DIR",
        type=Path,
        default=Path(__file__).with_name("fixtures"),
        help="folder with recorded outputs of the reference implementations (default: tests/fixtures)",
    )


def pytest_configure(config):
    # Both are raised inside lightning, by newer torch and jsonargparse than it was written for.
    config.addinivalue_line("filterwarnings", r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")
    config.addinivalue_line("filterwarnings", r"ignore:\s*(By default only one Jsonargparse|.* was\s+deprecated in v4)")


@pytest.fixture(scope="session")
def fixtures_dir(request):
    folder = request.config.getoption("fixtures_dir")
    assert folder.is_dir(), f"--fixtures: no such folder: {folder}"
    return folder


def _release_option(parser, name):
    """Take an option's name away from whoever registered it; its other names keep working."""
    action = parser.optparser._option_string_actions.pop(name)
    action.option_strings.remove(name)
