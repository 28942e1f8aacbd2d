"""Does an exported graph compute what the model computes? Measured, against PyTorch, before a bundle exists.

Shapes: B environments, H history frames, N latent tokens per frame, D latent width, S candidates, K horizon in blocks,
A action-block width, P proprio width, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.export.bundle import CONTROLLER
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning.backend import Backend, Frames, PlannerSpec, ProposingBackend, Scores
from jepakit.planning.cem import CEMConfig
from jepakit.planning.objective import Objective
from jepakit.planning.planner import Observation
from jepakit.planning.settings import PlannerConfig
from jepakit.planning.solver import Array

LARGEST_ERROR = 1e-3  # of the largest magnitude, float32
LEAST_OVERLAP = 0.95  # of elites
LARGEST_EXCESS = 0.01  # of the chosen plan's cost

_BATCHES = (1, 3)
_CANDIDATES = (1, 7, 300)
_MOST_TOKENS = 5000  # imagined at once, so that 300 candidates of a model with many tokens do not fill the memory


class VerificationError(RuntimeError):
    """An exported graph does not compute what the model computes; the message has the figures."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Planning problems from real data: what a camera saw, what was done in between, and pictures of goals.

    ``frames`` (B, H, h, w, 3) uint8 with the model's whole history, oldest first; raw ``past_actions`` (B, H−1, A);
    ``goal_frames`` (B, h, w, 3); for models that take it ``proprio`` (B, H, P) and ``goal_proprio`` (B, P).
    """

    frames: Frames
    past_actions: Array
    goal_frames: Frames
    proprio: Array | None = None
    goal_proprio: Array | None = None

    def check(self, spec: PlannerSpec) -> None:
        """Raise ``ValueError`` unless the queries fit the model."""
        count, picture = len(self.frames), (spec.image_size, spec.image_size, 3)
        shapes = {
            "frames": (count, spec.history, *picture),
            "past_actions": (count, spec.history - 1, spec.block_width),
            "goal_frames": (count, *picture),
        }
        if spec.proprio:
            shapes |= {"proprio": (count, spec.history, spec.proprio), "goal_proprio": (count, spec.proprio)}
        for name, expected in shapes.items():
            given = getattr(self, name)
            found = None if given is None else given.shape
            if found != expected or not count:
                raise ValueError(f"queries.{name}: found shape {found}, expected {expected}, at least one query")

    def seen(self, index: int, history: int) -> tuple[Frames, Array | None, Array]:
        """Return what is known at query ``index`` with only the last ``history`` frames: frames, proprio, actions."""
        row, last = slice(index, index + 1), slice(self.frames.shape[1] - history, None)
        proprio = None if self.proprio is None else self.proprio[row, last]
        return self.frames[row, last], proprio, self.past_actions[row, last]

    def goal(self, index: int) -> tuple[Frames, Array | None]:
        """Return the goal of query ``index`` as a clip of one frame."""
        row = slice(index, index + 1)
        return self.goal_frames[row, None], None if self.goal_proprio is None else self.goal_proprio[row, None]


def numerical_errors(reference: TorchBackend, engine: ProposingBackend, queries: Queries | None) -> dict[str, float]:
    """Largest difference from ``reference`` relative to its largest magnitude, for every graph.

    Over random frames, latents and actions in several numbers of environments and candidates, over a plan that is
    shorter than the horizon, and over ``queries``.
    """
    spec, rng = engine.spec, np.random.default_rng(0)
    assert spec.horizon is not None
    errors: dict[str, float] = {}

    def note(graph: str, found: Array | None, expected: Array | None) -> None:
        if expected is not None:
            assert found is not None
            errors[graph] = max(errors.get(graph, 0.0), _difference(found, expected))

    for batch in _BATCHES:
        for frames in range(1, spec.history + 1):
            seen = _random_frames(spec, batch, frames, rng)
            latents = reference.encode(*seen)
            note("encoder", engine.encode(*seen), latents)
            for count in candidate_counts(spec):
                horizon = spec.horizon if count > 1 else max(1, spec.horizon - 1)
                blocks = _random_blocks(spec, (batch, frames - 1 + count * horizon), rng)
                past, candidates = blocks[:, : frames - 1], blocks[:, frames - 1 :]
                candidates = candidates.reshape(batch, count, horizon, -1)
                arguments = (latents, past, candidates, latents[:, 0][::-1].copy())
                found, expected = engine.score(*arguments), reference.score(*arguments)
                note(f"score_{frames}", found.distance, expected.distance)
                note(f"score_{frames}", found.readout, expected.readout)
        if spec.proposals:
            asked = (
                *rng.standard_normal((2, batch, spec.tokens, spec.width), dtype=np.float32),
                _offsets(spec, batch, rng),
            )
            note(CONTROLLER, engine.propose(*asked), reference.propose(*asked))
    for index in range(0 if queries is None else len(queries.frames)):
        assert queries is not None
        pixels, proprio, _ = queries.seen(index, spec.history)
        note("encoder", engine.encode(pixels, proprio), reference.encode(pixels, proprio))
    return errors


def planning_errors(
    reference: TorchBackend, engine: Backend, queries: Queries, settings: PlannerConfig | None
) -> dict[str, float]:
    """How differently ``engine`` plans: the least and mean elite overlap, and the excess cost of its plans.

    Query i has a history of 1 + i mod H frames, so that all graphs are asked. *Overlap* is the share of elites both
    name among the candidates of the reference's own search, averaged over its iterations. *Excess* is how much more the
    plan of the engine costs than that of the reference with the same seed, in the reference's own cost.
    """
    settings = _searching(settings, engine.spec)
    overlaps, ours, theirs = [], [], []
    assert engine.spec.horizon is not None
    horizon = min(settings.mpc.horizon, engine.spec.horizon)
    for index in range(len(queries.frames)):
        history = 1 + index % engine.spec.history
        problem, same = (_encode(backend, queries, index, history) for backend in (reference, engine))
        witness = _Witness(reference, engine, settings, *same)
        best, other = (
            settings.planner(backend).plan(*seen, horizon=horizon, rngs=[np.random.default_rng(index)])
            for backend, seen in ((witness, problem), (engine, same))
        )
        overlaps.append(float(np.mean(witness.overlaps)))
        costs = witness.costs(problem, np.stack([best.actions[0], other.actions[0]]))
        ours.append(costs[0])
        theirs.append(costs[1])
    scale = float(np.mean(np.abs(ours)))
    return {
        "queries": len(overlaps),
        "elite_overlap_mean": float(np.mean(overlaps)),
        "elite_overlap_least": float(np.min(overlaps)),
        "excess_cost": float(np.mean(theirs) - np.mean(ours)) / scale,
        "excess_cost_worst": float(np.max(np.subtract(theirs, ours))) / scale,
    }


def candidate_counts(spec: PlannerSpec) -> Sequence[int]:
    """Return the numbers of candidates to compare: 1, 7 and 300, or fewer where a frame has many tokens."""
    most = max(_CANDIDATES[1] + 1, _MOST_TOKENS // spec.tokens)
    return tuple(min(count, most) for count in _CANDIDATES)


class _Witness:
    """The reference as a backend that asks the engine about the same candidates and compares the elites.

    The engine judges from what it has encoded itself, ``seen`` and ``goal``.
    """

    def __init__(
        self, reference: TorchBackend, engine: Backend, settings: PlannerConfig, seen: Observation, goal: Array
    ) -> None:
        assert engine.spec.horizon is not None
        self.spec = replace(reference.spec, horizon=engine.spec.horizon)
        self.reference, self.engine = reference, engine
        self.seen, self.goal = seen, goal
        self.objective: Objective = settings.objective.objective(self.spec)
        self.elites = settings.cem.elites
        self.overlaps: list[float] = []

    def encode(self, frames: Frames, proprio: Array | None = None) -> Array:
        return self.reference.encode(frames, proprio)

    def score(self, history: Array, past_actions: Array, candidates: Array, goal: Array) -> Scores:
        scores = self.reference.score(history, past_actions, candidates, goal)
        others = self.engine.score(self.seen.latents, self.seen.past_actions, candidates, self.goal)
        best, other = (
            set(np.argsort(self.objective(found, candidates)[0], kind="stable")[: self.elites].tolist())
            for found in (scores, others)
        )
        self.overlaps.append(len(best & other) / len(best))
        return scores

    def costs(self, problem: tuple[Observation, Array], plans: Array) -> NDArray[Any]:
        """Costs (S,) of raw ``plans`` (S, K, A) in the reference's eyes."""
        seen, goal = problem
        scores = self.reference.score(seen.latents, seen.past_actions, plans[None], goal)
        costs: NDArray[Any] = self.objective(scores, plans[None])[0]
        return costs


def _searching(settings: PlannerConfig | None, spec: PlannerSpec) -> PlannerConfig:
    """The settings to verify with: those to be exported, on a search of elites."""
    if settings is None:
        bounded = bool(np.isfinite([spec.action_low, spec.action_high]).all())
        settings = PlannerConfig(cem=CEMConfig(samples=128, elites=16, iterations=6), bounded=bounded)
    return settings if settings.solver == "cem" else replace(settings, solver="cem")


def _encode(backend: Backend, queries: Queries, index: int, history: int) -> tuple[Observation, Array]:
    frames, proprio, past = queries.seen(index, history)
    goal = backend.encode(*queries.goal(index))[:, 0]
    return Observation(latents=backend.encode(frames, proprio), past_actions=past), goal


def _random_frames(spec: PlannerSpec, batch: int, frames: int, rng: np.random.Generator) -> tuple[Frames, Array | None]:
    pixels = rng.integers(0, 256, (batch, frames, spec.image_size, spec.image_size, 3), dtype=np.uint8)
    proprio = rng.standard_normal((batch, frames, spec.proprio), dtype=np.float32) if spec.proprio else None
    return pixels, proprio


def _random_blocks(spec: PlannerSpec, leading: tuple[int, ...], rng: np.random.Generator) -> Array:
    return spec.action_mean + spec.action_std * rng.standard_normal((*leading, spec.block_width), dtype=np.float32)


def _offsets(spec: PlannerSpec, batch: int, rng: np.random.Generator) -> Array:
    return rng.integers(1, spec.max_offset, batch, endpoint=True).astype(np.float32)


def _difference(found: Array, expected: Array) -> float:
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))
