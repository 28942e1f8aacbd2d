"""The protocol: several policies on one frozen task list, in one run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from jepakit.planning.evaluation.latency import Latency, measure_latency
from jepakit.planning.evaluation.loop import Environment, Run, assign, run_policy
from jepakit.planning.evaluation.manifest import Manifest, Task
from jepakit.planning.evaluation.provenance import commit, machine, versions
from jepakit.planning.evaluation.report import Evaluation, PolicyResult
from jepakit.planning.mpc import MPCPolicy
from jepakit.planning.policies import Policy
from jepakit.workers import each_result

_SHARES = 16  # of a policy's tasks, for a cluster


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a task list is run.

    Args:
        seed: seed of the tasks' randomness.
        budget: raw actions per task; by default twice the distance in time from start to goal.
        batch_size: tasks in lock-step, all by default; changes the speed, not the outcomes.
        workers: processes that share the tasks, 0 for as many as there are cores; 1 is this one. Likewise.
        cluster: address of a Ray cluster that shares the tasks, with as many ``workers``, or with all it has if that
            is 0 or 1 (``jepakit.workers.each_result``).
        record: of how many tasks, the first ones, to keep pictures.
        latency_repeats: timed plans for a single environment; 0 for none.
        latency_warmup: plans made before them, untimed.

    """

    seed: int = 0
    budget: int | None = None
    batch_size: int | None = None
    workers: int = 1
    cluster: str | None = None
    record: int = 0
    latency_repeats: int = 30
    latency_warmup: int = 3

    def __post_init__(self) -> None:
        limits = {"seed": 0, "budget": 1, "batch_size": 1, "workers": 0}
        limits |= {"record": 0, "latency_repeats": 0, "latency_warmup": 0}
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
    play = partial(
        _play,
        policies,
        make_environment,
        seed=config.seed,
        budget=budget,
        batch_size=config.batch_size,
        record={task.id for task in manifest.tasks[: config.record]},
    )
    if config.workers == 1 and config.cluster is None:
        found = [play((name, manifest.tasks), on_step=on_step) for name in policies]
    else:
        found = _share_out(play, policies, manifest.tasks, config, on_step)
    results = [
        _result(
            name,
            policy,
            manifest,
            [part for part in found if part.policy == name],
            _latency(policy, make_environment(), manifest, config) if isinstance(policy, MPCPolicy) else None,
        )
        for name, policy in policies.items()
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


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one policy did on some of the tasks, and how long it took."""

    policy: str
    run: Run
    seconds: float


def _play(
    policies: Mapping[str, Policy],
    make_environment: Callable[[], Environment],
    job: tuple[str, Sequence[Task]],
    *,
    seed: int,
    budget: int,
    batch_size: int | None,
    record: Collection[int],
    on_step: Callable[[str, int, int], None] | None = None,
) -> _Part:
    name, tasks = job
    start = time.perf_counter()
    run = run_policy(
        policies[name],
        make_environment,
        tasks,
        seed=seed,
        budget=budget,
        batch_size=batch_size,
        record=record,
        on_step=None if on_step is None else partial(on_step, name),
    )
    return _Part(policy=name, run=run, seconds=time.perf_counter() - start)


def _share_out(
    play: Callable[[tuple[str, Sequence[Task]]], _Part],
    policies: Collection[str],
    tasks: Sequence[Task],
    config: EvaluationConfig,
    on_step: Callable[[str, int, int], None] | None,
) -> list[_Part]:
    """Let workers play a part of the tasks each."""
    workers = config.workers
    if config.cluster is not None and workers <= 1:
        workers, count = 0, _SHARES  # how many the cluster has is not known here
    else:
        count = workers or len(os.sched_getaffinity(0))
    count = min(len(tasks), count)
    jobs = [(name, tasks[number::count]) for name in policies for number in range(count)]
    found: list[_Part] = []
    for part in each_result(play, jobs, workers=workers, cluster=config.cluster):
        found.append(part)
        if on_step is not None:
            on_step(part.policy, sum(other.policy == part.policy for other in found), count)
    return found


def _result(
    name: str, policy: Policy, manifest: Manifest, parts: Sequence[_Part], latency: Latency | None
) -> PolicyResult:
    """Put the parts together, in the tasks' order."""
    place = {task.id: index for index, task in enumerate(manifest.tasks)}
    outcomes = [outcome for part in parts for outcome in part.run.outcomes]
    recordings = [recording for part in parts for recording in part.run.recordings]
    return PolicyResult(
        name=name,
        outcomes=tuple(sorted(outcomes, key=lambda outcome: place[outcome.task])),
        recordings=tuple(sorted(recordings, key=lambda recording: place[recording.task])),
        latency=latency,
        settings=policy.describe(),
        seconds=sum(part.seconds for part in parts),
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
