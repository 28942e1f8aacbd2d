"""Collect episodes with a scripted policy into an episode store: whole, or in shares that are merged.

A data set is generated in shards of a few episodes that depend on nothing but the settings. So it is the same, bit for
bit, whoever made which of them: one process or several, the jobs of an array, the workers of a Ray cluster, or a run
that was killed and the one that continued it.

Layout under ``root``, where jobs and cluster nodes share a file system::

    tworoom-64px-0123456789ab/            the data set
    .partial-tworoom-64px-0123456789ab/   its shards while some are missing
    .tworoom-64px-0123456789ab.lock       held by whoever completes it, shared by those who make shares
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jepakit.datamodules.recording import columns_of, load_class, make_env, run_episode
from jepakit.datamodules.store import MANIFEST, Codec, EpisodeStore, fingerprint_of, write_manifest, write_shard
from jepakit.envs.base import ScriptedPolicy
from jepakit.workers import each_result

#: Settings that agree where collections begin with the same episodes, however many and however drawn and stored.
SAME_EPISODES = ("env", "policy", "seed", "revision")
_EPISODES_PER_SHARD = 25
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything that determines a generated data set, bit for bit.

    ``env`` and ``policy`` are ``module:Class`` names of this package; ``revision`` rises when either changes what it
    produces. Every episode has ``steps`` rows and its own random stream, derived from (seed, episode).
    """

    env: str
    policy: str
    episodes: int
    steps: int
    image_size: int
    seed: int = 0
    frames: Codec = "raw"
    revision: int = 1

    def __post_init__(self) -> None:
        for field in ("episodes", "steps", "image_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} of a collection: found {getattr(self, field)}, expected at least 1")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of these settings."""
        return fingerprint_of(asdict(self))

    def directory(self, root: Path) -> Path:
        """Where this data set lives under ``root``."""
        return root / f"{self.env.rpartition(':')[2].lower()}-{self.image_size}px-{self.fingerprint[:12]}"


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of ``count`` equal parts of the work; ``number`` counts from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"share: found {self.number}/{self.count}, expected a number from 1 to the count")

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``3/16``; raises ``ValueError`` for anything else."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ValueError(f"share: found {text!r}, expected NUMBER/COUNT such as 3/16")
        return cls(number=int(number), count=int(count))


def collect(
    settings: Collection,
    root: str | Path,
    *,
    workers: int = 0,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Generate the data set unless it is there; returns its directory under ``root``.

    Shards that exist already, from an interrupted run or from shares, are kept; the manifest that makes them a data set
    comes last. A second process that wants the same data waits for the first. ``workers`` and ``cluster`` are those of
    ``each_result``; ``progress(done, total)`` counts episodes.
    """
    final = settings.directory(Path(root))
    if (final / MANIFEST).is_file():
        return final
    with _locked(final, fcntl.LOCK_EX) as folder:
        if folder is not None:
            _make_shards(settings, folder, _shards(settings), workers, cluster, progress)
            _complete(settings, folder, final)
    return final


def collect_share(
    settings: Collection,
    root: str | Path,
    share: Share,
    *,
    workers: int = 0,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Generate one share of the data set's shards unless they are there; returns the folder that holds them.

    Shares can be made at the same time by any number of jobs; then :func:`merge` makes them the data set. The other
    arguments are those of :func:`collect`.
    """
    final = settings.directory(Path(root))
    with _locked(final, fcntl.LOCK_SH) as folder:
        if folder is None:
            return final
        with _lock(folder / f".share-{share.number}-of-{share.count}.lock", fcntl.LOCK_EX):
            _make_shards(
                settings, folder, _shards(settings)[share.number - 1 :: share.count], workers, cluster, progress
            )
    return folder


def merge(settings: Collection, root: str | Path, *, parts: Sequence[str | Path] = ()) -> Path:
    """Make the data set of shares that are all there; returns its directory under ``root``.

    ``parts`` are further roots in which jobs without a common file system made their shares; they are left as they are.
    Raises ``ValueError`` naming the shards that are missing.
    """
    final = settings.directory(Path(root))
    with _locked(final, fcntl.LOCK_EX) as folder:
        if folder is not None:
            for part in parts:
                _adopt(Path(part) / folder.name, folder)
            missing = [shard for shard in _shards(settings) if not _shard_path(folder, shard).exists()]
            if missing:
                raise ValueError(
                    f"{folder}: {len(missing)} of {len(_shards(settings))} shards are missing, the first is "
                    f"{_shard_path(folder, missing[0]).name}; run the remaining shares, or collect without shares"
                )
            _complete(settings, folder, final)
    return final


def _make_shards(
    settings: Collection, folder: Path, shards: range, workers: int, cluster: str | None, progress: Progress | None
) -> None:
    """Generate those of ``shards`` that do not exist yet."""
    missing = [shard for shard in shards if not _shard_path(folder, shard).exists()]
    total = sum(len(_episodes(settings, shard)) for shard in shards)
    done = total - sum(len(_episodes(settings, shard)) for shard in missing)
    for shard in each_result(partial(_make_shard, settings, folder), missing, workers=workers, cluster=cluster):
        if not _shard_path(folder, shard).exists():
            raise FileNotFoundError(
                f"{_shard_path(folder, shard)}: made by a worker but not to be seen here; give a root on a file system "
                "that all nodes of the cluster share"
            )
        done += len(_episodes(settings, shard))
        if progress is not None:
            progress(done, total)


def _make_shard(settings: Collection, folder: Path, shard: int) -> int:
    """Generate and write one shard; returns its number. Runs in a worker, on this machine or another."""
    env = make_env(settings.env, settings.image_size)
    policy: ScriptedPolicy = load_class(settings.policy)()
    episodes = (
        run_episode(env, policy, settings.steps, np.random.default_rng([settings.seed, episode]))
        for episode in _episodes(settings, shard)
    )
    path = _shard_path(folder, shard)
    try:
        write_shard(path, episodes, columns_of(env, settings.frames))
    except OSError:
        if not path.exists():  # otherwise another job was faster, with the same result
            raise
    return shard


def _complete(settings: Collection, folder: Path, final: Path) -> None:
    """Declare the shards in ``folder`` complete and give it its name."""
    for leftover in folder.glob(".*"):  # of killed runs
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    env = make_env(settings.env, settings.image_size)
    write_manifest(folder, asdict(settings), columns_of(env, settings.frames))
    found = len(EpisodeStore(folder).lengths)
    if found != settings.episodes:
        raise ValueError(f"{folder}: found {found} episodes, expected {settings.episodes}; delete it and collect again")
    folder.rename(final)


def _adopt(source: Path, folder: Path) -> None:
    """Take over the shards of ``source`` that ``folder`` lacks, by hard link where that is possible."""
    for shard in sorted(source.glob("shard-*")):
        if not (folder / shard.name).exists():
            temporary = folder / f".adopted-{shard.name}"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(shard, temporary, copy_function=_link_or_copy)
            temporary.rename(folder / shard.name)


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, destination)


def _shards(settings: Collection) -> range:
    return range(-(-settings.episodes // _EPISODES_PER_SHARD))


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}"


def _episodes(settings: Collection, shard: int) -> range:
    first = shard * _EPISODES_PER_SHARD
    return range(first, min(first + _EPISODES_PER_SHARD, settings.episodes))


@contextmanager
def _locked(final: Path, kind: int) -> Iterator[Path | None]:
    """Yield the folder for the shards of ``final``, locked; None when the data set is complete by then."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final.with_name(f".{final.name}.lock"), kind):
        if (final / MANIFEST).is_file():
            yield None
            return
        if final.exists():
            raise ValueError(f"{final}: exists without {MANIFEST}; move or delete it")
        folder = final.with_name(f".partial-{final.name}")
        folder.mkdir(exist_ok=True)
        yield folder


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on ``path``, exclusive or shared; it is released even when the process dies."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, kind)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path}: cannot be locked ({error.strerror}); give every job a root of its own on a file system with "
                "locks and merge them",
            ) from error
        yield
