"""Collisions: discs and boxes that slide without friction and bounce, for object-centric models and counterfactuals."""

from __future__ import annotations

import math

import numpy as np

from jepakit.envs.scene import FIELDS, Physics, Table
from jepakit.envs.scene_env import SceneEnv, angle_names, state_names
from jepakit.envs.scene_picture import GREY

_FEWEST = 4
_GAP = 1.0  # units between objects at the start
_RESTING_SHARE = 0.25


class Collisions(SceneEnv):
    """Four to six coloured discs and squares in a box seen from above, 20 steps a second.

    All contacts are elastic, so motion never ends. Object 0 is always there and red; which of the other five slots are
    empty varies, so that a model also learns what an empty slot is. Colours differ within a scene. Everything else, the
    pushes included, is said by ``SceneEnv``.
    """

    slots = 6
    physics = Physics()
    state_names = state_names(slots)
    angle_names = angle_names(slots)

    def sample_table(self, rng: np.random.Generator) -> Table:
        """Draw 4 to 6 objects that do not touch; a quarter of them rest, others move at 20 to 60 units/s."""
        count = int(rng.integers(_FEWEST, self.slots + 1))
        chosen = [0, *np.sort(rng.permutation(np.arange(1, self.slots))[: count - 1]).tolist()]
        colours = [0, *(1 + rng.permutation(GREY - 1)[: count - 1]).tolist()]
        table = np.zeros((self.slots, len(FIELDS)))
        places: list[tuple[float, float, float]] = []
        for index, colour in zip(chosen, colours, strict=True):
            box = bool(rng.random() < 0.5)
            size = float(rng.uniform(6.5, 9.5) if box else rng.uniform(7.0, 11.0))
            radius = size * math.sqrt(2) if box else size
            x, y = self._free_place(rng, radius, places)
            places.append((x, y, radius))
            speed = 0.0 if rng.random() < _RESTING_SHARE else rng.uniform(20.0, 60.0)
            heading = rng.uniform(0.0, 2 * math.pi)
            angle, spin = (rng.uniform(0.0, 2 * math.pi), rng.uniform(-1.5, 1.5)) if box else (0.0, 0.0)
            velocity = speed * math.cos(heading), speed * math.sin(heading)
            table[index] = [1, box, 0, colour, size, size, x, y, angle, *velocity, spin if speed else 0.0]
        return table

    def _free_place(
        self, rng: np.random.Generator, radius: float, taken: list[tuple[float, float, float]]
    ) -> tuple[float, float]:
        """Draw a centre inside the border that keeps clear of the circles ``taken``."""
        low = self.physics.border + radius + _GAP
        while True:
            x, y = rng.uniform(low, self.physics.extent - low, 2).tolist()
            if all(math.dist((x, y), (u, v)) > radius + r + _GAP for u, v, r in taken):
                return x, y
