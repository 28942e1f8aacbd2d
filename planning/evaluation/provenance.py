"""What a result was produced with: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("jepakit", "numpy", "torch", "lightning", "onnxruntime", "gymnasium", "pymunk")


def versions() -> dict[str, str]:
    """List the versions of Python and of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Describe the machine, without its name."""
    return {"system": platform.system(), "architecture": platform.machine(), "cpus": os.cpu_count() or 1}


def commit() -> str | None:
    """Return the checked-out commit of this code, marked when files differ from it; ``None`` outside a checkout."""
    here = Path(__file__).resolve()
    # An installed copy may lie inside somebody else's repository; only a tracked file speaks for its commit.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def without_query(argument: str) -> str:
    """Return an argument of a command without what follows ``?`` in its URLs: signed addresses hold a secret there."""
    return re.sub(r"(\w+://[^\s?]+\?)\S+", r"\1…", argument)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
