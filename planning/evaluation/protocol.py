"""The protocol: several policies on one frozen task list, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepakit.planning.evaluation.latency import Latency, measure_latency
from jepakit.planning.evaluation.loop import Environment, assign, run_policy
from jepakit.planning.evaluation.manifest import Manifest
from jepakit.planning.evaluation.provenance import commit, machine, versions
from jepakit.planning.evaluation.report import Evaluation, PolicyResult
from jepakit.planning.mpc import MPCPolicy
from jepakit.planning.policies import Policy


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a task list is run.

    Args:
        seed: seed of the tasks' randomness.
        budget: raw actions per task; by default twice the distance in time from start to goal.
        batch_size: tasks in lock-step, all by default; changes the speed, not the outcomes.
        record: of how many tasks, the first ones, to keep pictures.
        latency_repeats: timed plans for a single environment; 0 for none.
        latency_warmup: plans made before them, untimed.

    """

    seed: int = 0
    budget: int | None = None
    batch_size: int | None = None
    record: int = 0
    latency_repeats: int = 30
    latency_warmup: int = 3

    def __post_init__(self) -> None:
        limits = {"seed": 0, "budget": 1, "batch_size": 1, "record": 0, "latency_repeats": 0, "latency_warmup": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"EvaluationConfig.{name}: found {value}, expected at least {least}")


def evaluate(
    policies: Mapping[str, Policy],
    make_environment: Callable[[], Environment],
    manifest: Manifest,
    config: EvaluationConfig | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    on_step: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Run every policy on the manifest's tasks, and time the plans of those that plan.

    ``settings`` are JSON-ready values kept with the result (model, checkpoint, command); ``on_step(policy, done,
    total)`` reports progress.
    """
    config = config or EvaluationConfig()
    budget = 2 * manifest.offset if config.budget is None else config.budget
    results = [
        _result(name, policy, make_environment, manifest, config, budget, on_step) for name, policy in policies.items()
    ]
    return Evaluation(
        manifest=manifest,
        budget=budget,
        seed=config.seed,
        policies=tuple(results),
        settings=settings or {},
        versions=versions(),
        machine=machine(),
        commit=commit(),
    )


def _result(
    name: str,
    policy: Policy,
    make_environment: Callable[[], Environment],
    manifest: Manifest,
    config: EvaluationConfig,
    budget: int,
    on_step: Callable[[str, int, int], None] | None,
) -> PolicyResult:
    start = time.perf_counter()
    run = run_policy(
        policy,
        make_environment,
        manifest.tasks,
        seed=config.seed,
        budget=budget,
        batch_size=config.batch_size,
        record={task.id for task in manifest.tasks[: config.record]},
        on_step=None if on_step is None else lambda done, total: on_step(name, done, total),
    )
    seconds = time.perf_counter() - start
    return PolicyResult(
        name=name,
        outcomes=run.outcomes,
        recordings=run.recordings,
        latency=_latency(policy, make_environment(), manifest, config) if isinstance(policy, MPCPolicy) else None,
        settings=policy.describe(),
        seconds=seconds,
    )


def _latency(
    policy: MPCPolicy, environment: Environment, manifest: Manifest, config: EvaluationConfig
) -> Latency | None:
    """Time plans of the first task, alone, seen from its start."""
    if config.latency_repeats == 0:
        return None
    task = manifest.tasks[0]
    state, goal = np.asarray(task.state), np.asarray(task.goal_state)
    environment.reset(seed=0, options={"state": state, "goal": goal})
    call = policy.rehearsal(environment, assign(environment, state, goal, np.random.default_rng(0)))
    return measure_latency(call, repeats=config.latency_repeats, warmup=config.latency_warmup)
