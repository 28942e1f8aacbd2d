"""Windows per second of our stores against the same windows read as public loaders read them.

Batches of 128 windows of 4 frames (frame skip 5) of Push-T, the same shuffled order, page cache warm; every page of a
batch is touched. Lance is timed with one ``take`` per window and with one per batch; the ratio is against the faster.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Benchmark, median, start
from public_loaders import HDF5Windows, LanceBatches, LanceWindows, write_hdf5, write_lance
from torch.utils.data import DataLoader, Dataset, Sampler

from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules import EpisodeDataModule
from jepakit.datamodules.recording import columns_of, run_episode
from jepakit.datamodules.sampling import EpochOrder, WindowLoader
from jepakit.datamodules.store import Column, EpisodeStore, EpisodeWriter
from jepakit.datamodules.windows import identity
from jepakit.envs.pusht import PushT
from jepakit.envs.pusht_policies import PushTExplorer

BATCH, STEPS = 128, 100


def write_stores(folder: Path, image_size: int, episodes: int) -> dict[str, EpisodeStore]:
    """The same episodes, raw and as JPEG."""
    env, policy = PushT(image_size=image_size), PushTExplorer()
    columns = columns_of(env, "raw")
    compressed = {**columns, "pixels": Column(dtype="uint8", shape=columns["pixels"].shape, codec="jpeg")}
    with EpisodeWriter(folder / "raw", columns) as raw, EpisodeWriter(folder / "jpeg", compressed) as jpeg:
        for number in range(episodes):
            episode = run_episode(env, policy, STEPS, np.random.default_rng(number))
            raw.append(episode)
            jpeg.append(episode)
    return {name: EpisodeStore(folder / name) for name in ("raw", "jpeg")}


class Pass(Sampler[int]):
    """The next ``windows`` of one endless shuffled order; a pass ends with its last batch, nothing is left over."""

    def __init__(self, order: EpochOrder) -> None:
        self.windows = 4 * BATCH
        self._order = chain.from_iterable(map(order.indices, count()))

    def __len__(self) -> int:
        return self.windows

    def __iter__(self) -> Iterator[int]:
        return map(int, islice(self._order, self.windows))


def make_loaders(folder: Path, image_size: int, workers: int) -> dict[str, DataLoader[Any]]:
    """Every loader yields the same windows in the same order."""
    ours = {}
    for name, path in (("raw", "raw"), ("jpeg", "jpeg"), ("HDF5, our reader", "data.h5")):
        data = EpisodeDataModule(str(folder / path), image_size=image_size, batch_size=BATCH)
        data.setup()
        ours[name] = data.dataset("train")
    windows = ours["raw"]
    datasets: dict[str, Dataset[Any]] = {
        **ours,
        "HDF5": HDF5Windows(folder / "data.h5", windows),
        "Lance, take per window": LanceWindows(folder / "data.lance", windows),
        "Lance, take per batch": LanceBatches(folder / "data.lance", windows),
    }
    return {
        name: (WindowLoader if name in ours else DataLoader)(
            dataset,
            batch_size=BATCH,
            sampler=Pass(EpochOrder(sizes=(len(windows),), seed=0)),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,  # Lance does not survive a fork
            collate_fn=identity if name in ours else None,
        )
        for name, dataset in datasets.items()
    }


def batches_of(loader: DataLoader[Any]) -> Iterator[dict[str, torch.Tensor]]:
    """One pass, with every page of the frames touched."""
    for batch in loader:
        batch["pixels"].view(-1)[::4096].sum()
        yield batch


def windows_per_second(loader: DataLoader[Any], seconds: float) -> float:
    """The rate of a pass of about ``seconds``, from asking for the iterator to the last batch."""
    begun = time.perf_counter()
    for _ in batches_of(loader):
        pass
    rate = len(loader.sampler) / (time.perf_counter() - begun)
    loader.sampler.windows = max(4, round(rate * seconds / BATCH)) * BATCH
    return rate


def check_same(loaders: dict[str, DataLoader[Any]]) -> None:
    """The loaders do yield the same: exactly where nothing is compressed, nearly elsewhere."""
    first = {name: list(batches_of(loader))[-1] for name, loader in loaders.items()}
    for name, batch in first.items():
        for column in ("action", "proprio", "state"):
            same = torch.eq(batch[column], first["raw"][column]) | batch[column].isnan()
            assert same.all(), (name, column)
        error = (batch["pixels"].int() - first["raw"]["pixels"].int()).abs().float().mean()
        assert error == 0 if name in ("raw", "HDF5", "HDF5, our reader") else error < 2, (name, error)


def memory_mb(loader: DataLoader[Any]) -> float:
    """Resident memory of this process and its loader processes; what they share counts once."""
    workers = getattr(loader._iterator, "_workers", [])
    total = 0
    for pid in (os.getpid(), *(worker.pid for worker in workers)):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def memory_over_an_epoch(loader: DataLoader[Any]) -> tuple[float, float]:
    """After a tenth of an epoch, and the highest in its last half."""
    loader.sampler.windows = len(loader.dataset) // BATCH * BATCH
    found = [memory_mb(loader) for _ in batches_of(loader)]
    return found[len(found) // 10 + 2], max(found[len(found) // 2 :])


def compare(bench: Benchmark, folder: Path, image_size: int, workers: int) -> None:
    loaders = make_loaders(folder, image_size, workers)
    check_same(loaders)
    seconds, repeats = (0.5, 2) if bench.quick else (2.0, 7)
    for loader in loaders.values():  # finds the length of a pass, too
        windows_per_second(loader, seconds)
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, loader in loaders.items():
            rates[name].append(windows_per_second(loader, seconds))
    for name, found in rates.items():
        case = {"image_size": image_size, "workers": workers, "loader": name}
        bench.row(**case, windows_per_s=median(found), lowest=min(found), highest=max(found))
    for ours, public in (
        ("raw", "HDF5"),
        ("HDF5, our reader", "HDF5"),
        ("jpeg", "Lance, take per window"),
        ("jpeg", "Lance, take per batch"),
    ):
        ratio = median([a / b for a, b in zip(rates[ours], rates[public], strict=True)])
        bench.ratio(f"{ours} / {public}, {image_size} px, {workers} workers", ratio)
    for name in ("raw", "jpeg"):
        begin, end = memory_over_an_epoch(loaders[name])
        bench.row(image_size=image_size, workers=workers, loader=name, mb_at_start=begin, mb_at_end=end)


def sizes(bench: Benchmark, stores: dict[str, EpisodeStore], lance_bytes: int, image_size: int) -> None:
    frames = int(stores["raw"].lengths.sum())
    per_frame: dict[str, float] = {"Lance": lance_bytes / frames}
    for name, store in stores.items():
        files: Callable[[str], list[Path]] = lambda pattern, store=store: sorted(store.path.glob(pattern))  # noqa: E731
        per_frame[name] = sum(file.stat().st_size for file in files("shard-*/pixels.*")) / frames
    bench.row(image_size=image_size, **{f"bytes_per_frame_{name}": value for name, value in per_frame.items()})
    bench.ratio(f"bytes per frame, jpeg / Lance, {image_size} px", per_frame["jpeg"] / per_frame["Lance"])


def main() -> None:
    bench = start("loader", __doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    for image_size, episodes in ((64, 40), (224, 20)) if bench.quick else ((64, 150), (224, 60)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            stores = write_stores(folder, image_size, episodes)
            write_hdf5(folder / "data.h5", stores["raw"])
            sizes(bench, stores, write_lance(folder / "data.lance", stores["raw"]), image_size)
            for workers in (0, 2):
                compare(bench, folder, image_size, workers)
    bench.finish()


if __name__ == "__main__":
    main()
