"""The LightningDataModule that all data goes through: open, split by episode, fit statistics, cut windows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import lightning as L
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from jepakit.datamodules.collect import Collection, collect, load_class, make_env
from jepakit.datamodules.hdf5 import HDF5Source
from jepakit.datamodules.progress import progress_bar
from jepakit.datamodules.store import MANIFEST, Codec, EpisodeSource, EpisodeStore
from jepakit.datamodules.windows import Batch, EpochShuffle, Statistics, WindowDataset, WindowSpec, identity

Part = Literal["train", "val", "test"]


def open_source(path: str | Path) -> EpisodeSource:
    """Open a data set by what it is: a store directory or an HDF5 file; anything else is an error."""
    path = Path(path)
    if path.is_dir() or path.name == MANIFEST:
        return EpisodeStore(path.parent if path.name == MANIFEST else path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such data set; give a store directory or an .h5 file")
    if path.suffix in {".h5", ".hdf5"}:
        return HDF5Source(path)
    raise ValueError(f"{path}: unknown kind of data set; expected a store directory or a file ending in .h5 or .hdf5")


def split_episodes(count: int, *, val: float, test: float, seed: int) -> dict[Part, NDArray[np.int64]]:
    """Partition episodes ``0 … count−1`` into sorted, disjoint parts; val and test get at least one each."""
    if count < 3:
        raise ValueError(f"split: found {count} episodes, expected at least 3 (train, val and test)")
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(f"split: found val={val} and test={test}, expected positive shares that leave some to train")
    order = np.random.default_rng([seed, count]).permutation(count)
    n_val, n_test = max(1, round(val * count)), max(1, round(test * count))
    parts = np.split(order, [n_val, n_val + n_test])
    return {"val": np.sort(parts[0]), "test": np.sort(parts[1]), "train": np.sort(parts[2])}


def fit_statistics(
    source: EpisodeSource,
    episodes: NDArray[np.int64],
    frame_skip: int,
    bounds: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
) -> Statistics:
    """Action statistics of the given episodes; without known ``bounds`` the observed range is taken."""
    rows = np.concatenate([source.offsets[e] + np.arange(source.lengths[e]) for e in episodes])
    actions = source.read("action", rows).astype(np.float64)
    last = np.cumsum(source.lengths[episodes]) - 1
    missing = np.asarray(np.isnan(actions).any(axis=1))
    missing[last] = False
    if missing.any() or np.isinf(actions).any():
        row = int(np.flatnonzero(missing | np.isinf(actions).any(axis=1))[0])
        episode = int(episodes[np.searchsorted(last, row)])
        raise ValueError(
            f"{source.path}: column 'action' of episode {episode}: found {actions[row].tolist()} before the "
            "last step, expected finite numbers; repair the data or drop the episode"
        )
    actions = actions[~np.isnan(actions).any(axis=1)]
    mean, std = actions.mean(axis=0), actions.std(axis=0)
    if (std == 0).any():
        raise ValueError(
            f"{source.path}: column 'action': dimensions {np.flatnonzero(std == 0).tolist()} are constant, so they "
            "cannot be standardised; remove them from the data"
        )
    low, high = bounds or (actions.min(axis=0).astype(np.float32), actions.max(axis=0).astype(np.float32))
    return Statistics(
        action_mean=np.tile(mean, frame_skip).astype(np.float32),
        action_std=np.tile(std, frame_skip).astype(np.float32),
        action_low=low,
        action_high=high,
    )


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How much data to make when none is given, and where to keep it.

    ``episodes`` of ``steps`` rows each under ``root``; ``frames`` are stored raw (fastest) or as PNG or JPEG (for
    large frames); ``workers`` processes, 0 for one per available core.
    """

    root: str = "data"
    episodes: int = 600
    steps: int = 100
    frames: Codec = "raw"
    seed: int = 0
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a model's config must agree with: frame size, window, and width of one raw action."""

    image_size: int
    frame_skip: int
    action_dim: int
    history: int
    predictions: int


class EpisodeDataModule(L.LightningDataModule):
    """Windows of a data set, split by episode; the base of all data modules.

    Args:
        data: a store directory or an HDF5 file in the public layout. Subclasses that know an environment make their
            own data when it is ``None``.
        generate: what to make in that case.
        image_size: side of the square frames, checked against the data.
        history: context frames of a window.
        predictions: frames after them.
        frame_skip: environment steps between two frames.
        batch_size: windows per batch.
        num_workers: loader processes; 0 loads in the training process.
        val_share: share of the *episodes* used for validation.
        test_share: share of the *episodes* that only evaluation sees.
        seed: of the split and of the order of windows.
    """

    #: The environment, the policy that collects in it and the one that solves it, as ``module:Class``; ``revision``
    #: rises when one of the first two changes the data it makes.
    env: ClassVar[str | None] = None
    policy: ClassVar[str | None] = None
    expert: ClassVar[str | None] = None
    revision: ClassVar[int] = 1

    def __init__(
        self,
        data: str | None = None,
        *,
        generate: Generate = Generate(),
        image_size: int = 224,
        history: int = 3,
        predictions: int = 1,
        frame_skip: int = 5,
        batch_size: int = 128,
        num_workers: int = 0,
        val_share: float = 0.05,
        test_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if data is None and self.env is None:
            raise ValueError("data: found nothing, expected the path of a data set (only environments can make one)")
        self.data = data
        self.generate = generate
        self.image_size = image_size
        self.window = WindowSpec(history=history, predictions=predictions, frame_skip=frame_skip)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._shares = (val_share, test_share)
        self._source: EpisodeSource | None = None
        self.prepare_seconds = 0.0  # spent on generating data

    @property
    def collection(self) -> Collection:
        """Settings of the data that would be generated."""
        assert self.env is not None
        assert self.policy is not None
        return Collection(
            env=self.env,
            policy=self.policy,
            episodes=self.generate.episodes,
            steps=self.generate.steps,
            image_size=self.image_size,
            seed=self.generate.seed,
            frames=self.generate.frames,
            revision=self.revision,
        )

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """Names of the columns of ``state``, where an environment is known."""
        return None if self.env is None else load_class(self.env).state_names

    def locate(self) -> Path:
        """Where the data set is, or will be once generated."""
        if self.data is not None:
            return Path(self.data)
        return self.collection.directory(Path(self.generate.root))

    def prepare_data(self) -> None:
        """Generate the data set if none was given and it is not there yet, with a progress bar."""
        if self.data is not None:
            return
        started = time.perf_counter()
        with progress_bar(f"collecting {self.locate().name}") as report:
            collect(self.collection, self.generate.root, workers=self.generate.workers, progress=report)
        self.prepare_seconds = time.perf_counter() - started

    def action_bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Bounds ``(C,)`` of one raw action where the environment says them; otherwise the data's range is used."""
        if self.env is None:
            return None
        space = make_env(self.env, 16).action_space
        assert isinstance(space, spaces.Box)
        return space.low.astype(np.float32), space.high.astype(np.float32)

    def setup(self, stage: str | None = None) -> None:
        """Open the data, split it by episode and fit the statistics on the training part."""
        if self._source is not None:
            return
        source = open_source(self.locate())
        found = source.columns["pixels"].shape
        expected = (self.image_size, self.image_size, 3)
        if found != expected:
            raise ValueError(
                f"{source.path}: column 'pixels': found frames of {found}, expected {expected}; set image_size of "
                f"data and model to {found[0]} or convert the data"
            )
        self.parts = split_episodes(len(source.lengths), val=self._shares[0], test=self._shares[1], seed=self.seed)
        self.statistics = fit_statistics(source, self.parts["train"], self.window.frame_skip, self.action_bounds())
        self._source = source

    @property
    def source(self) -> EpisodeSource:
        """The open data set; only after ``setup``."""
        if self._source is None:
            raise RuntimeError("the data module is not set up: call prepare_data() and setup() first")
        return self._source

    @property
    def action_dim(self) -> int:
        """Width of one raw action, C."""
        return int(self.source.columns["action"].shape[0])

    @property
    def spec(self) -> DataSpec:
        """What a model must agree with; only after ``setup``."""
        return DataSpec(
            image_size=self.image_size,
            frame_skip=self.window.frame_skip,
            action_dim=self.action_dim,
            history=self.window.history,
            predictions=self.window.predictions,
        )

    def dataset(self, part: Part) -> WindowDataset:
        """Windows of one part: all of them for training, those that do not overlap for the others."""
        return WindowDataset(
            self.source,
            self.parts[part],
            self.window,
            last_action=self.statistics.action_mean[: self.action_dim],
            stride=1 if part == "train" else self.window.steps,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch); the incomplete last batch is dropped."""
        dataset = self.dataset("train")
        return self._loader(dataset, sampler=EpochShuffle(len(dataset), self.seed))

    def val_dataloader(self) -> DataLoader[Batch]:
        """In order."""
        return self._loader(self.dataset("val"), sampler=None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """In order."""
        return self._loader(self.dataset("test"), sampler=None)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test windows, in order."""
        return self.test_dataloader()

    def _loader(self, dataset: WindowDataset, sampler: EpochShuffle | None) -> DataLoader[Batch]:
        if sampler is not None and len(dataset) < self.batch_size:
            raise ValueError(
                f"{self.source.path}: {len(dataset)} training windows do not fill one batch of {self.batch_size}; "
                "lower batch_size or add data"
            )
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=sampler is not None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=identity,
        )
