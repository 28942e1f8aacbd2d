"""Finding what was published: a folder here, a repository on the Hugging Face Hub, or weights that came along.

Needs huggingface_hub for the Hub only, and never PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

BUNDLE_FOLDER = "bundle"  # of ONNX graphs, within a published repository
BUILTIN = Path(__file__).parent / "zoo" / "builtin"
_BUILTIN, _HUB = "builtin:", "hub:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(source: str | Path, files: Sequence[str], *, revision: str | None = None) -> Path:
    """Return the folder that holds ``files``: a local one, or a Hub repository's snapshot of just these files.

    A ``Path`` is always a folder; of strings, ``hub:org/name`` is always a Hub id and ``builtin:name`` weights that
    came with jepakit. ``org/name`` is a Hub id unless a folder of that name exists, which is refused as ambiguous.
    Anything else is a folder. ``revision`` is a branch, tag or commit of the Hub repository.

    Raises ``FileNotFoundError`` for what is missing or cannot be reached, and ``ValueError`` for an ambiguous name.
    """
    folder = resolve(source, files, revision=revision)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected a folder with {' and '.join(files)}")
    for name in files:
        if not (folder / name).is_file():
            found = sorted(path.name for path in folder.iterdir())[:8]
            raise FileNotFoundError(f"{folder / name}: no such file; found {found or 'an empty folder'}")
    return folder


def resolve(source: str | Path, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """Return the folder that ``source`` names, as ``locate`` does; of a Hub repository, what matches ``patterns``."""
    text = str(source)
    named = isinstance(source, str)
    if named and (text.startswith(_HUB) or _HUB_ID.fullmatch(text)):
        return fetch(_hub_id(text), patterns, revision=revision)
    if revision is not None:
        raise ValueError(f"revision: found {revision!r} with the folder {text}, expected it with a Hub id only")
    return _builtin(text.removeprefix(_BUILTIN)) if named and text.startswith(_BUILTIN) else Path(text).expanduser()


def fetch(repository: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """Return the folder of a Hub repository's files that match ``patterns``, downloaded or from the cache.

    Without a network the latest snapshot in the cache is taken. Raises ``FileNotFoundError`` saying what is not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.errors import RevisionNotFoundError as RevisionError

    where = f"hub:{repository}" + (f" at {revision!r}" if revision else "")
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except RevisionError as error:
        raise FileNotFoundError(
            f"{where}: the repository has no such revision; name a branch, tag or commit"
        ) from error
    except GatedRepoError as error:
        raise FileNotFoundError(f"{where}: access must be asked for on the repository's page") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{where}: no such repository, or a private one; check the name, or log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{where}: the Hub cannot be reached and nothing is in the cache ({error})") from error
    except ValueError as error:  # a name that would lead out of the cache
        raise ValueError(f"{where}: {error}") from error


def builtin_names() -> list[str]:
    """Names of the weights that came with jepakit."""
    return sorted(path.name for path in BUILTIN.iterdir() if path.is_dir()) if BUILTIN.is_dir() else []


def _builtin(name: str) -> Path:
    known = builtin_names()
    if name not in known:
        raise FileNotFoundError(f"{_BUILTIN}{name}: not among the weights that came with jepakit: {known}")
    return BUILTIN / name


def _hub_id(text: str) -> str:
    explicit = text.startswith(_HUB)
    name = text.removeprefix(_HUB)
    if not _HUB_ID.fullmatch(name):
        raise ValueError(f"source: found {text!r}, expected 'hub:organisation/name'")
    if Path(name).expanduser().exists() and not explicit:
        raise ValueError(
            f"source: {name!r} is a folder here and could also be a Hub id; "
            f"write './{name}' for the folder or 'hub:{name}' for the Hub"
        )
    return name
