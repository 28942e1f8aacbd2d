"""The LightningDataModule that all data goes through: open, split by episode, fit statistics, cut windows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import lightning as L
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.datamodules.collect import Collection, collect
from jepakit.datamodules.goals import GoalDataset, Goals
from jepakit.datamodules.joined import JoinedSource
from jepakit.datamodules.progress import progress_bar
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.recording import load_class, make_env
from jepakit.datamodules.sampling import EpochOrder, WindowLoader, WindowSampler, leave_signals_to_the_main_process
from jepakit.datamodules.splits import Bounds, Part, fit_statistics, split_episodes
from jepakit.datamodules.store import Codec, EpisodeSource
from jepakit.datamodules.windows import Statistics, WindowDataset, WindowSpec, identity


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
        data: path or URL of a data set that ``readers`` knows. Subclasses that know an environment make their own when
            it is ``None``.
        generate: what to make in that case.
        image_size: side of the square frames, checked against the data.
        history: context frames of a window.
        predictions: frames after them.
        frame_skip: environment steps between two frames.
        columns: further columns of the data that every frame of a window brings, such as ``pixels_wrist`` or ``mask``.
        features: path of a data set with the same episodes whose column ``features``, (tokens, width) per row, stands
            in for the frames: what ``FeatureCache`` writes, or slots extracted elsewhere.
        goals: serve goal pairs, from which controllers and distances learn, instead of windows.
        batch_size: windows per batch and process.
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
        columns: tuple[str, ...] = (),
        features: str | None = None,
        goals: Goals | None = None,
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
        self.columns = columns
        self.features = features
        self.goals = goals
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
    def split_settings(self) -> dict[str, float]:
        """What determines which episodes are for training, beside their number."""
        return {"seed": self.seed, "val_share": self._shares[0], "test_share": self._shares[1]}

    @property
    def state_names(self) -> tuple[str, ...] | None:
        """Names of the columns of ``state``, where an environment is known."""
        return None if self.env is None else load_class(self.env).state_names

    @property
    def angle_names(self) -> frozenset[str]:
        """Those of ``state_names`` that are angles."""
        return frozenset() if self.env is None else load_class(self.env).angle_names

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

    def action_bounds(self) -> Bounds | None:
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
        source = self.open_data()
        for name in ("pixels", "action", *self.columns):
            if name not in source.columns:
                raise ValueError(f"{source.path}: column {name!r} not found; it has {', '.join(source.columns)}")
        found = source.columns["pixels"].shape
        expected = (self.image_size, self.image_size, 3)
        if found != expected:
            raise ValueError(
                f"{source.path}: column 'pixels': found frames of {found}, expected {expected}; set image_size of "
                f"data and model to {found[0]} or convert the data"
            )
        if self.features is not None:
            source = JoinedSource(source, open_source(self.features), "features")
        self.parts = self.split_data(source)
        self.statistics = self.fit_statistics(source)
        self._source = source

    def use_features(self, path: str) -> None:
        """From now on read ``features`` from the data set at ``path``; see the argument of that name."""
        self._source = JoinedSource(self.source, open_source(path), "features")
        self.features = path

    def open_data(self) -> EpisodeSource:
        """Open what ``setup`` splits."""
        return open_source(self.locate() if self.data is None else self.data)

    def split_data(self, source: EpisodeSource) -> dict[Part, NDArray[np.int64]]:
        """Sorted episodes of every part."""
        return self.split_count(len(source.lengths))

    def split_count(self, count: int) -> dict[Part, NDArray[np.int64]]:
        """Split ``count`` episodes by this module's shares and seed."""
        return split_episodes(count, val=self._shares[0], test=self._shares[1], seed=self.seed)

    def fit_statistics(self, source: EpisodeSource) -> Statistics:
        """Statistics of the training episodes."""
        return fit_statistics(source, [(self.parts["train"], 1.0)], self.window.frame_skip, self.action_bounds())

    def order(self, dataset: WindowDataset) -> EpochOrder:
        """How training visits the windows."""
        return EpochOrder(sizes=(len(dataset),), seed=self.seed)

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
        """Windows or goal pairs of one part: all of them for training, those that do not overlap for the others."""
        columns = ("pixels" if self.features is None else "features", *self.columns)
        last_action = self.statistics.action_mean[: self.action_dim]
        episodes, training = self.parts[part], part == "train"
        if self.goals is not None:
            stride = 1 if training else self.goals.steps
            return GoalDataset(
                self.source, episodes, self.goals, last_action=last_action, stride=stride, columns=columns
            )
        stride = 1 if training else self.window.steps
        return WindowDataset(
            self.source, episodes, self.window, last_action=last_action, stride=stride, columns=columns
        )

    def train_dataloader(self) -> WindowLoader:
        """Shuffled by (seed, epoch), in equal shares for all processes; the incomplete last batch is dropped."""
        dataset = self.dataset("train")
        rank, world_size = self._place()
        if len(dataset) < self.batch_size * world_size:
            raise ValueError(
                f"{self.source.path}: {len(dataset)} training windows do not fill one batch of {self.batch_size} for "
                f"each of {world_size} processes; lower batch_size or add data"
            )
        sampler = WindowSampler(self.order(dataset), rank=rank, world_size=world_size)
        loader = self._loader(dataset, sampler, drop_last=True)
        share = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        loader.limit = share if isinstance(share, int) else int(share * len(loader))
        return loader

    def val_dataloader(self) -> WindowLoader:
        """In order."""
        return self._in_order("val", even=True)

    def test_dataloader(self) -> WindowLoader:
        """In order."""
        return self._in_order("test", even=True)

    def predict_dataloader(self) -> WindowLoader:
        """The test windows in order, every one of them in one process's share."""
        return self._in_order("test", even=False)

    def _in_order(self, part: Part, *, even: bool) -> WindowLoader:
        dataset = self.dataset(part)
        rank, world_size = self._place()
        # Losses are reduced over processes, so each must have as many batches; a few windows may be left out for it.
        even = even and len(dataset) >= world_size
        order = EpochOrder(sizes=(len(dataset),))
        return self._loader(dataset, WindowSampler(order, rank=rank, world_size=world_size, even=even), drop_last=False)

    def _place(self) -> tuple[int, int]:
        """Rank and number of training processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, dataset: WindowDataset, sampler: WindowSampler, *, drop_last: bool) -> WindowLoader:
        # Readers of other formats keep threads and handles that do not survive a fork.
        forked = getattr(self.source, "fork_safe", False)
        return WindowLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            multiprocessing_context=None if forked or not self.num_workers else "spawn",
            collate_fn=identity,
            worker_init_fn=leave_signals_to_the_main_process,
        )
