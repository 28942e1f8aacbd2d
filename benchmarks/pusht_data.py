"""What Push-T's scripted policies are worth: contact in the collected windows, random goals that the expert reaches.

A window is 20 steps (4 frames, frame skip 5). A pair of random states counts as solved when the task's criterion, which
asks for the pusher's place as well as the block's pose, holds at any step of the budget.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from harness import start

from jepakit.datamodules.collect import Collection, collect
from jepakit.datamodules.store import EpisodeStore
from jepakit.envs.base import ScriptedPolicy
from jepakit.envs.pusht import PushT
from jepakit.envs.pusht_policies import PushTExpert

WINDOW = 20
BUDGETS = (50, 100, 200, 300)


class RandomActions:
    """Uniform actions: the floor."""

    def reset(self, state: np.ndarray, goal: np.ndarray | None, rng: np.random.Generator) -> None:
        """Take the generator."""
        self._rng = rng

    def act(self, state: np.ndarray) -> np.ndarray:
        """Draw an action ``(2,)``."""
        return self._rng.uniform(-1.0, 1.0, 2).astype(np.float32)


def collected(episodes: int) -> dict[str, float]:
    """Shares of windows with contact, with a block that moves, and of steps with contact."""
    settings = Collection(
        env="jepakit.envs.pusht:PushT",
        policy="jepakit.envs.pusht_policies:PushTExplorer",
        episodes=episodes,
        steps=125,
        image_size=16,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(collect(settings, Path(folder)))
        rows = np.arange(store.lengths.sum())
        contact = store.read("contact", rows).reshape(episodes, -1)
        block = store.read("state", rows).reshape(episodes, settings.steps, -1)[..., 2:5]
    windows = np.lib.stride_tricks.sliding_window_view(contact, WINDOW, axis=1).any(axis=-1)
    moved = block[:, WINDOW - 1 :] - block[:, : 1 - WINDOW]
    turned = np.abs((moved[..., 2] + np.pi) % (2 * np.pi) - np.pi)
    pushed = (np.hypot(moved[..., 0], moved[..., 1]) > 3.0) | (turned > 0.05)
    return {
        "windows_with_contact": float(windows.mean()),
        "windows_with_block_moved": float(pushed.mean()),
        "steps_with_contact": float(contact.mean()),
    }


def steps_to_goal(env: PushT, policy: ScriptedPolicy, pair: int) -> float:
    """Steps until the goal of random pair number ``pair`` is met, infinity beyond the largest budget."""
    rng = np.random.default_rng([1, pair])
    begin, goal = env.sample_state(rng), env.sample_state(rng)
    env.set_state(begin)
    policy.reset(begin, goal, rng)
    for step in range(BUDGETS[-1] + 1):
        if env.success(env.state, goal):
            return float(step)
        env.advance(policy.act(env.state))
    return float("inf")


def main() -> None:
    bench = start("pusht_data", __doc__)
    bench.row(case="explorer, 125 steps an episode", **collected(100 if bench.quick else 1000))
    env, pairs = PushT(image_size=16), 50 if bench.quick else 300
    for name, policy in (("expert", PushTExpert()), ("random", RandomActions())):
        steps = np.array([steps_to_goal(env, policy, pair) for pair in range(pairs)])
        solved = {f"solved_in_{budget}": float((steps <= budget).mean()) for budget in BUDGETS}
        median = float(np.median(steps[np.isfinite(steps)])) if np.isfinite(steps).any() else None
        bench.row(case=name, pairs=pairs, **solved, median_steps=median)
    bench.finish()


if __name__ == "__main__":
    main()
