"""What every environment here has in common: a full state, a goal state, and a picture of both."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

State = NDArray[np.float64]
Frame = NDArray[np.uint8]


class GoalEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """A Gymnasium environment whose goal is a state, shown to the agent as a picture.

    Observations are ``{"pixels": (S, S, 3) uint8, "proprio": (P,) float32, "state": (D,) float32}``. The reward
    is 1.0 where the success criterion holds and 0.0 elsewhere; an episode ends on success unless
    ``stop_on_success=False``. ``reset(options={"state": …, "goal": …})`` starts from given states.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    #: Names of the state's entries, in order; probes and reports use them.
    state_names: ClassVar[tuple[str, ...]]
    #: Those of them that are angles in radians, equal again after a full turn.
    angle_names: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, image_size: int = 224, stop_on_success: bool = True, render_mode: str = "rgb_array") -> None:
        if image_size < 16:
            raise ValueError(f"image_size: found {image_size}, expected at least 16 pixels")
        if render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode: found {render_mode!r}, expected one of {self.metadata['render_modes']}")
        self.image_size = image_size
        self.stop_on_success = stop_on_success
        self.render_mode = render_mode
        self.goal: State = np.zeros(len(self.state_names))

    # -- what an environment must say -------------------------------------------------------------------------
    @property
    @abstractmethod
    def state(self) -> State:
        """The full simulator state, ``(D,)`` float64, in the public data set's units and order."""

    @abstractmethod
    def set_state(self, state: NDArray[Any]) -> None:
        """Put the simulator into ``state`` ``(D,)`` exactly; raises ``ValueError`` for a wrong shape or NaN."""

    @abstractmethod
    def sample_state(self, rng: np.random.Generator) -> State:
        """Draw a valid start (or goal) state."""

    @abstractmethod
    def advance(self, action: NDArray[Any]) -> None:
        """Apply one action to the simulator, without rendering."""

    @abstractmethod
    def draw(self, out: Frame) -> None:
        """Draw the current state into ``out`` ``(S, S, 3)``, overwriting it completely."""

    @property
    def contact(self) -> bool:
        """Whether the last ``advance`` touched an object; environments without objects never do."""
        return False

    def annotations(self) -> dict[str, NDArray[Any]]:
        """Further columns of a data set that tell what the current state shows, as instance masks do; none here."""
        return {}

    def events(self) -> dict[str, NDArray[Any]]:
        """Columns of a data set that tell what the last ``advance`` did: ``contact`` and what a subclass adds."""
        return {"contact": np.array(self.contact)}

    @staticmethod
    @abstractmethod
    def distance(state: NDArray[Any], goal: NDArray[Any]) -> float:
        """Distance to the goal in units of the success criterion: success means ``distance < 1``."""

    @staticmethod
    @abstractmethod
    def proprio_of(state: NDArray[Any]) -> NDArray[Any]:
        """The part of the state a robot would feel by itself, ``(P,)``."""

    @property
    def proprio(self) -> NDArray[Any]:
        """What a robot would feel by itself now, ``(P,)``."""
        return self.proprio_of(self.state)

    # -- shared behaviour ---------------------------------------------------------------------------------------
    @classmethod
    def success(cls, state: NDArray[Any], goal: NDArray[Any]) -> bool:
        """Whether ``state`` meets the environment's own criterion for ``goal``."""
        return cls.distance(state, goal) < 1.0

    def check_state(self, state: NDArray[Any]) -> State:
        """Return ``state`` as float64, or raise ``ValueError`` saying what is wrong with it."""
        array = np.asarray(state, dtype=np.float64)
        expected = (len(self.state_names),)
        if array.shape != expected or not np.isfinite(array).all():
            raise ValueError(
                f"state of {type(self).__name__}: found shape {array.shape} with values {array.tolist()}, "
                f"expected shape {expected} and finite numbers: {', '.join(self.state_names)}"
            )
        return array

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start from ``options["state"]`` towards ``options["goal"]``; what is not given is drawn."""
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"state", "goal"})
        if unknown:
            raise ValueError(f"reset options: found {unknown}, expected only 'state' and 'goal'")
        state = options.get("state")
        goal = options.get("goal")
        self.set_state(self.sample_state(self.np_random) if state is None else state)
        self.goal = self.sample_state(self.np_random) if goal is None else self.check_state(goal)
        return self.observation(), self.info()

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Apply one action; see the class for what comes back."""
        self.advance(action)
        info = self.info()
        success = bool(info["success"])
        return self.observation(), float(success), success and self.stop_on_success, False, info

    def observation(self) -> dict[str, NDArray[Any]]:
        """What the agent sees now."""
        return {
            "pixels": self.render(),
            "proprio": self.proprio.astype(np.float32),
            "state": self.state.astype(np.float32),
        }

    def info(self) -> dict[str, Any]:
        """Success and distance to the goal, in units of the criterion."""
        distance = self.distance(self.state, self.goal)
        return {"success": distance < 1.0, "distance": distance}

    def render(self) -> Frame:
        """A new picture ``(S, S, 3)`` uint8 of the current state."""
        frame = np.empty((self.image_size, self.image_size, 3), dtype=np.uint8)
        self.draw(frame)
        return frame

    def picture(self, state: NDArray[Any]) -> Frame:
        """The picture of another state (a goal image); the simulator is left as it was."""
        before = self.state
        try:
            self.set_state(state)
            return self.render()
        finally:
            self.set_state(before)


class ScriptedPolicy(Protocol):
    """A policy that reads the simulator's state: collects data and serves as a baseline."""

    def reset(self, state: NDArray[Any], goal: NDArray[Any] | None, rng: np.random.Generator) -> None:
        """Begin an episode; without a goal the policy chooses its own purposes."""
        ...

    def act(self, state: NDArray[Any]) -> NDArray[np.float32]:
        """The next action ``(A,)``."""
        ...
