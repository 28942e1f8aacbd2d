"""Frames per second of data collection, against drawing every frame from scratch with the same physics.

The reference renders as straightforward environments do: the whole picture, every frame, from full-frame arrays.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Benchmark, median, start

from jepakit.datamodules.collect import Collection, collect
from jepakit.envs.tworoom import DOT_SIGMA, WORLD, TwoRoom, TwoRoomExplorer

KINDS = {
    "TwoRoom": ("jepakit.envs.tworoom:TwoRoom", "jepakit.envs.tworoom:TwoRoomExplorer"),
    "PushT": ("jepakit.envs.pusht:PushT", "jepakit.envs.pusht_policies:PushTExplorer"),
    "Collisions": ("jepakit.envs.collisions:Collisions", "jepakit.envs.scene_env:OccasionalPushes"),
    "Gravity": ("jepakit.envs.gravity:Gravity", "jepakit.envs.scene_env:OccasionalPushes"),
    "Reacher": ("jepakit.envs.reacher:Reacher", "jepakit.envs.reacher_policies:ReacherExplorer"),
    "Cube": ("jepakit.envs.cube:Cube", "jepakit.envs.cube_policies:CubeExplorer"),
}
SLOW = ("Reacher", "Cube")  # MuJoCo draws in software where there is no GPU: fewer episodes


def collected_per_second(
    kind: str, image_size: int, workers: int, episodes: int, repeats: int, steps: int = 100
) -> float:
    """Median frames per second of whole collections, process start-up and writing included."""
    env, policy = KINDS[kind]
    settings = Collection(env=env, policy=policy, episodes=episodes, steps=steps, image_size=image_size)
    rates = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            collect(settings, Path(folder), workers=workers)
            rates.append(episodes * settings.steps / (time.perf_counter() - begun))
    return median(rates)


def full_frame_draw(env: TwoRoom) -> Callable[[np.ndarray], None]:
    """Two-Room drawn the plain way: an exponential for every pixel of every frame."""
    rows, columns = np.mgrid[: env.image_size, : env.image_size] + 0.5
    background = env._background.astype(np.float64)

    def draw(out: np.ndarray) -> None:
        x, y = env.state * env.image_size / WORLD
        sigma = DOT_SIGMA * env.image_size / WORLD
        opacity = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))[..., None]
        out[...] = np.rint(background * (1 - opacity) + np.array([255.0, 0.0, 0.0]) * opacity)

    return draw


def loop_per_second(image_size: int, draw_everything: bool, steps: int) -> float:
    """Frames per second of one process stepping and drawing Two-Room, without writing."""
    env, policy = TwoRoom(image_size=image_size), TwoRoomExplorer()
    draw = full_frame_draw(env) if draw_everything else env.draw
    rng = np.random.default_rng(0)
    out = np.empty((image_size, image_size, 3), np.uint8)
    env.set_state(env.sample_state(rng))
    policy.reset(env.state, None, rng)
    begun = time.perf_counter()
    for _ in range(steps):
        draw(out)
        env.advance(policy.act(env.state))
    return steps / (time.perf_counter() - begun)


def drawing(bench: Benchmark, image_size: int) -> None:
    steps, repeats = (500, 3) if bench.quick else (3000, 7)
    pairs = [
        (loop_per_second(image_size, False, steps), loop_per_second(image_size, True, steps)) for _ in range(repeats)
    ]
    ours, plain = (median(list(column)) for column in zip(*pairs, strict=True))
    bench.row(case="TwoRoom loop, 1 process", image_size=image_size, patch_only=ours, full_frame=plain)
    bench.ratio(f"patch-only / full-frame drawing, {image_size} px", median([a / b for a, b in pairs]))


def main() -> None:
    bench = start("collect", __doc__)
    cores = len(os.sched_getaffinity(0))
    for image_size in (64, 224):
        drawing(bench, image_size)
    for kind in KINDS:
        rates = {}
        for workers in sorted({1, cores}):
            episodes, repeats, steps = (100, 1, 100) if bench.quick else (400, 3, 100)
            if kind in SLOW:
                episodes, repeats, steps = (8, 1, 20) if bench.quick else (16, 1, 50)
            rates[workers] = collected_per_second(kind, 64, workers, episodes, repeats, steps)
            bench.row(case=f"collect {kind}", image_size=64, processes=workers, frames_per_s=rates[workers])
        bench.ratio(f"{kind}: {cores} processes / 1", rates[cores] / rates[1])
    bench.finish()


if __name__ == "__main__":
    main()
