"""What environments made of a scene share: state, pushes, pictures, masks, contacts and counterfactuals."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from jepakit.envs.base import Frame, GoalEnv, State
from jepakit.envs.scene import (
    COLOUR,
    FIELDS,
    VX,
    Impulses,
    Physics,
    Table,
    X,
    check_table,
    delete,
    pairs,
    step,
    to_float32,
)
from jepakit.envs.scene_picture import PALETTE, Painter

SUCCESS_RADIUS = 8.0
_FAR = 1e6  # speeds have no limit; the bound is finite because Gymnasium warns of infinite ones


class Continuation(NamedTuple):
    """What follows a state: ``states`` ``(L, D)`` after each of L steps, ``contacts`` ``(L, P)`` during them."""

    states: State
    contacts: Impulses


class SceneEnv(GoalEnv):
    """Objects in a square; the red one, object 0, can be pushed.

    State ``(12 N,)``: the table of ``scene``, row by row, in numbers that float32 holds. Action ``(2,)`` in [-1, 1]:
    a velocity added to object 0, in units of ``push_speed``; zero lets things happen. The goal is a place for object 0.
    """

    physics: ClassVar[Physics]
    slots: ClassVar[int]
    push_speed: ClassVar[float] = 40.0

    def __init__(self, *, image_size: int = 224, stop_on_success: bool = True, render_mode: str = "rgb_array") -> None:
        super().__init__(image_size=image_size, stop_on_success=stop_on_success, render_mode=render_mode)
        self._painter = Painter(image_size, self.physics)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(-_FAR, _FAR, (4,), np.float32),
                "state": spaces.Box(-_FAR, _FAR, (len(self.state_names),), np.float32),
            }
        )
        self.set_state(self.sample_state(np.random.default_rng(0)))

    @abstractmethod
    def sample_table(self, rng: np.random.Generator) -> Table:
        """Draw a scene ``(N, 12)``."""

    def sample_state(self, rng: np.random.Generator) -> State:
        """Draw a scene, as a state."""
        return to_float32(self.sample_table(rng)).ravel()

    @property
    def state(self) -> State:
        """The scene, ``(12 N,)``."""
        return np.array(self._table.ravel())

    def set_state(self, state: NDArray[Any]) -> None:
        """Restore a scene, rounded to float32; raises ``ValueError`` for one that cannot be."""
        self._table = self._table_of(state)
        self._impulses: Impulses = np.zeros(len(pairs(self.slots)), dtype=np.float32)

    def advance(self, action: NDArray[Any]) -> None:
        """Push object 0 and let ``physics.substeps · physics.time_step`` seconds pass."""
        self._table, self._impulses = step(self._table, self.physics, push=self._push(action))

    @property
    def contact(self) -> bool:
        """Whether two objects touched during the last step."""
        exchanged = zip(pairs(self.slots), self._impulses, strict=True)
        return any(impulse > 0 for (_, other), impulse in exchanged if other != self.slots)

    def draw(self, out: Frame) -> None:
        """Draw the scene into ``out`` ``(S, S, 3)``."""
        self._painter.draw(out, self._table)

    def picture(self, state: NDArray[Any]) -> Frame:
        """Draw another scene; see the base class."""
        frame = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        self._painter.draw(frame, self._table_of(state))
        return frame

    def annotations(self) -> dict[str, NDArray[Any]]:
        """``mask`` ``(S, S)`` uint8: the object each pixel shows, i + 1 for object i, 0 for none."""
        return {"mask": self._painter.mask(self._table)}

    def events(self) -> dict[str, NDArray[Any]]:
        """``contact``, and ``contacts`` ``(P,)`` float32: the impulse each pair exchanged; see ``scene.pairs``."""
        return {**super().events(), "contacts": self._impulses}

    def resimulate(
        self,
        state: NDArray[Any],
        steps: int,
        *,
        without: int | None = None,
        actions: NDArray[Any] | None = None,
        ghosts: Collection[int] = (),
        frozen: Collection[int] = (),
    ) -> Continuation:
        """Compute what follows ``state``, the environment's own state being left alone.

        Args:
            state: where to begin, ``(12 N,)``; a row of a data set continues bit for bit as it did there.
            steps: how many steps, L.
            without: the object to delete first: the truth of "what if it were not there?".
            actions: pushes of object 0, ``(L, 2)``; none by default.
            ghosts: objects that pass through others, against the law.
            frozen: objects that stay where they are, against the law.

        Raises ``ValueError`` for an impossible state, an object that is not there, or actions of another shape.
        """
        table = self._table_of(state)
        actions = np.zeros((steps, 2)) if actions is None else np.asarray(actions)
        if actions.shape != (steps, 2):
            raise ValueError(f"actions: found shape {actions.shape}, expected {(steps, 2)}, one push per step")
        if without is not None:
            table = delete(table, without)
        states = np.empty((steps, table.size))
        contacts = np.empty((steps, len(pairs(self.slots))), dtype=np.float32)
        for index in range(steps):
            push = self._push(actions[index])
            table, contacts[index] = step(table, self.physics, push=push, ghosts=ghosts, frozen=frozen)
            states[index] = table.ravel()
        return Continuation(states, contacts)

    @staticmethod
    def distance(state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Return the distance of object 0 from its place in ``goal``, divided by the success radius of 8 units."""
        return math.dist(state[X : X + 2], goal[X : X + 2]) / SUCCESS_RADIUS

    @staticmethod
    def proprio_of(state: NDArray[Any]) -> NDArray[Any]:
        """Return position and velocity of object 0, ``(4,)``."""
        return np.asarray(state)[[X, X + 1, VX, VX + 1]]

    def _table_of(self, state: NDArray[Any]) -> Table:
        table = to_float32(self.check_state(state)).reshape(self.slots, len(FIELDS))
        check_table(table)
        if not np.isin(table[:, COLOUR], np.arange(len(PALETTE))).all():
            raise ValueError(f"scene: found colours {table[:, COLOUR].tolist()}, expected 0 to {len(PALETTE) - 1}")
        return table

    def _push(self, action: NDArray[Any]) -> tuple[float, float]:
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (2,) or not np.isfinite(values).all():
            raise ValueError(
                f"action of {type(self).__name__}: found {values.tolist()}, expected 2 finite numbers in [-1, 1]"
            )
        dx, dy = np.clip(values, -1.0, 1.0).tolist()
        return self.push_speed * dx, self.push_speed * dy


def state_names(slots: int) -> tuple[str, ...]:
    """Name the entries of the state of a scene with ``slots`` objects: ``0_present`` and so on."""
    return tuple(f"{index}_{field}" for index in range(slots) for field in FIELDS)


def angle_names(slots: int) -> frozenset[str]:
    """Those of ``state_names`` that are angles."""
    return frozenset(name for name in state_names(slots) if name.endswith("_angle"))


class OccasionalPushes:
    """Collects data in scenes: half of the episodes are left alone, in the others object 0 is pushed now and then."""

    def __init__(self, *, passive_share: float = 0.5, push_rate: float = 0.05) -> None:
        for name, share in (("passive_share", passive_share), ("push_rate", push_rate)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}: found {share}, expected a number from 0 to 1")
        self.passive_share, self.push_rate = passive_share, push_rate

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Draw this episode's kind; a goal is ignored."""
        self._rng = rng
        self._rate = 0.0 if rng.random() < self.passive_share else self.push_rate

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """Choose a push ``(2,)``, most often none."""
        pushes = self._rng.random() < self._rate
        return (self._rng.uniform(-1.0, 1.0, 2) if pushes else np.zeros(2)).astype(np.float32)
