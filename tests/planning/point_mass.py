"""A world whose dynamics fit in one line, and a backend that knows them exactly.

A point moves by ``SPEED · clip(action, −1, 1)``. Its picture is eight bytes of position spelled out as pixels, so the
"encoder" reads the position exactly and every difference in a result comes from the code under test. Needs NumPy only.
"""

import numpy as np

from jepakit.planning import CEM, Assignment, CEMConfig, MPCConfig, MPCPolicy, Planner, PlannerSpec, Scores
from jepakit.planning.evaluation import draw_tasks

SIZE = 4
SPEED = 0.4
RADIUS = 1.0
SKIP = 5


class PointMass:
    """Duck-typed like ``jepakit.envs.base.GoalEnv``."""

    def __init__(self):
        self.state = np.zeros(2)
        self.renders = 0

    def reset(self, *, seed=None, options=None):
        self.state = np.array(options["state"], dtype=np.float64)

    def advance(self, action):
        self.state = self.state + SPEED * np.clip(np.asarray(action, np.float64), -1.0, 1.0)

    def render(self):
        self.renders += 1
        return self.picture(self.state)

    @property
    def proprio(self):
        return self.proprio_of(self.state)

    @staticmethod
    def proprio_of(state):
        return 10 * np.asarray(state)

    def picture(self, state):
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        frame.reshape(-1)[:8] = np.asarray(state, np.float32).view(np.uint8)
        return frame

    @staticmethod
    def distance(state, goal):
        return float(np.linalg.norm(np.subtract(state, goal))) / RADIUS


class ExactBackend:
    """The point's dynamics behind the planner's contract; keeps what it was given."""

    def __init__(self, history=3, **spec):
        self.spec = PlannerSpec(
            image_size=SIZE,
            history=history,
            frame_skip=SKIP,
            action_dim=2,
            action_mean=np.linspace(-0.1, 0.1, 2 * SKIP, dtype=np.float32),
            action_std=np.linspace(0.5, 0.7, 2 * SKIP, dtype=np.float32),
            action_low=np.full(2, -1.0, np.float32),
            action_high=np.full(2, 1.0, np.float32),
            tokens=1,
            width=2,
            **spec,
        )
        self.encoded = []
        self.felt = []
        self.scored = []

    def encode(self, frames, proprio=None):
        self.encoded.append(frames.copy())
        self.felt.append(proprio)
        latents = np.ascontiguousarray(frames.reshape(*frames.shape[:2], -1)[..., :8]).view(np.float32)
        return latents[:, :, None]

    def score(self, history, past_actions, candidates, goal):
        self.scored.append((history.copy(), past_actions.copy(), candidates.copy(), goal.copy()))
        steps = SPEED * np.clip(candidates.reshape(*candidates.shape[:3], SKIP, 2), -1.0, 1.0).sum(axis=3)
        position = history[:, -1, 0][:, None, None] + np.cumsum(steps, axis=2, dtype=np.float32)
        distance = np.square(position - goal[:, None]).sum(axis=-1).astype(np.float32)
        return Scores(distance=distance, readout=position if self.spec.readout else None)


class DifferentiableBackend(ExactBackend):
    """The same, with the slope of it all; reads off where the point is."""

    def __init__(self, history=3, **spec):
        super().__init__(history, readout=("x", "y"), **spec)

    def differentiate(self, history, past_actions, candidates, goal):
        scores = self.score(history, past_actions, candidates, goal)

        def pull_back(by_distance, by_readout):
            slope = np.zeros_like(scores.readout)
            if by_distance is not None:
                slope += 2 * (scores.readout - goal[:, None]) * by_distance[..., None]
            if by_readout is not None:
                slope += by_readout
            later = np.cumsum(slope[:, :, ::-1], axis=2)[:, :, ::-1]  # an action moves all positions after it
            return SPEED * np.tile(later, SKIP) * (np.abs(candidates) < 1.0)

        return scores, pull_back


def make_mpc(*, config=None, samples=64, iterations=6, bounded=True, history=3, **spec):
    """A planner good enough for this world."""
    solver = CEM(CEMConfig(samples=samples, elites=8, iterations=iterations))
    return MPCPolicy(Planner(ExactBackend(history, **spec), solver, bounded=bounded), config or MPCConfig())


def assign(world, goal, seed=0):
    """One task from where ``world`` is."""
    return Assignment(
        state=world.state,
        goal_state=np.array(goal),
        goal_frame=world.picture(goal),
        goal_proprio=world.proprio_of(goal),
        rng=np.random.default_rng([5, seed]),
    )


def make_manifest(*, count=12, seed=0):
    """Tasks from episodes that wander towards far targets, some of them resting for their first half."""
    rng = np.random.default_rng(seed)
    states = {}
    for episode in range(8):
        direction = rng.normal(size=2)
        velocity = np.tile(SPEED * direction / np.linalg.norm(direction), (60, 1))
        velocity[: 30 if episode % 2 else 0] = 0.0
        states[3 * episode] = rng.normal(size=2) + np.cumsum(velocity, axis=0)
    return draw_tasks(
        states,
        lambda state, goal: PointMass.distance(state, goal) < 1.0,
        count=count,
        offset=25,
        seed=seed,
        environment="PointMass",
        data_fingerprint="f" * 64,
    )
