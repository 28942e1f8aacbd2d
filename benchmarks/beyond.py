"""Search and what may replace it, on one task list: controller, learned distance, prefix prediction. ``make beyond``.

For every environment and seed: nano LeWM (that of ``benchmarks/compare.py``, if it is there), nano Fast-LeWM, and on
LeWM's latents a controller, one with eight modes, a learned distance and macro-actions (``beyond_planners.py``). Then
all planners act on the same validation and test tasks for every offset of the goal, with a budget of twice the offset.
What is there is not done again, so the same command continues after an interruption. Only training episodes train
anything.

    python benchmarks/beyond.py --environments tworoom --seeds 0 --offsets 25
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from beyond_planners import LONG_EPISODES, REFERENCE, Planners, trainings
from harness import Benchmark
from numpy.typing import NDArray
from runs import ENVIRONMENTS, interval, load_data, origin
from torch.utils.flop_counter import FlopCounterMode

from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.recording import load_class
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.envs.base import GoalEnv
from jepakit.envs.tworoom import WALL_X, TwoRoom, TwoRoomExpert
from jepakit.planning import Policy, RandomPolicy, Scripted
from jepakit.planning.evaluation import EvaluationConfig, Manifest, evaluate, mcnemar_test, measure_latency
from jepakit.planning.evaluation.files import write_json
from jepakit.planning.evaluation.loop import assign
from jepakit.planning.evaluation.manifest import draw_tasks
from jepakit.planning.policies import StateController

Costs = dict[str, dict[str, float]]  # by planner
DEAR = (REFERENCE, "gradient 8×20")
DRAWN = {"tworoom": ("drawn", "moved")}  # goals away from the demonstrations, where they can be reached in time
DOOR_Y = 150.0  # of the moved door; the models know one at 49


def costs(
    planners: Planners, data: EpisodeDataModule, environment: str, offset: int, options: argparse.Namespace
) -> Costs:
    """Milliseconds and operations of one decision, by planner; measured together, once, on a machine best left alone.

    Operations are those of matrix products. Delete the file to measure again.
    """
    file: Path = options.runs / environment / f"costs-{offset}.json"
    if not file.is_file():
        print(f"{file}", flush=True)
        task = tasks_of(data, TaskConfig(count=1, offset=offset)).tasks[0]
        state, goal = np.asarray(task.state), np.asarray(task.goal_state)
        world = environment_factory(data)()
        world.reset(seed=0, options={"state": state, "goal": goal})
        found = {}
        for name, policy in planners.make(offset).items():
            decide = policy.rehearsal(world, assign(world, state, goal, np.random.default_rng(0)))
            timed = measure_latency(decide, repeats=3 if options.quick or name in DEAR else 20, warmup=1)
            with FlopCounterMode(display=False) as counter:
                decide()
            found[name] = {**dataclasses.asdict(timed), "flops": counter.get_total_flops()}
        write_json(file, found)
    known: Costs = json.loads(file.read_text())
    return known


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task list of one environment, for the models of one seed."""

    environment: str
    seed: int
    offset: int
    goals: str = "episode"
    split: str = "test"

    @property
    def title(self) -> str:
        """What the page calls it."""
        if self.goals == "episode":
            return f"{ENVIRONMENTS[self.environment]}, goals of the demonstrations, {self.offset} steps away"
        moved = f", the door moved to y = {DOOR_Y:g}" if self.goals == "moved" else ""
        return f"{ENVIRONMENTS[self.environment]}, goals drawn anywhere, budget {2 * self.offset} steps{moved}"

    def folder(self, runs: Path) -> Path:
        """Results, a file per planner."""
        return runs / self.environment / f"seed-{self.seed}" / f"{self.split}-{self.goals}-{self.offset}"

    def execute(self, planners: Planners, data: EpisodeDataModule, options: argparse.Namespace) -> dict[str, Any]:
        """Results of all planners by name; those whose file is there are not run again."""
        make_environment, tasks, expert = self._surroundings(data, options.tasks)
        policies: dict[str, Policy] = {
            "random": RandomPolicy.uniform(data.statistics.action_low, data.statistics.action_high),
            **planners.make(self.offset),
            "scripted": Scripted(expert),
        }
        config = EvaluationConfig(latency_repeats=0)  # see costs
        for dear in DEAR if options.quick or self.split == "val" else ():
            del policies[dear]
        found = {}
        for name, policy in policies.items():
            file = self.folder(options.runs) / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
            if not file.is_file():
                print(f"{file}", flush=True)
                write_json(file, evaluate({name: policy}, make_environment, tasks, config).plain())
            found[name] = json.loads(file.read_text())
        return found

    def _surroundings(
        self, data: EpisodeDataModule, count: int
    ) -> tuple[Callable[[], GoalEnv], Manifest, Callable[[], StateController]]:
        """Environment, tasks and the scripted policy that knows them."""
        if self.goals == "moved":
            return _moved_door(data, count, self.offset, self.split)
        assert data.expert is not None
        settings = TaskConfig(count=count, offset=self.offset, goals=self.goals, split=self.split)
        return environment_factory(data), tasks_of(data, settings), load_class(data.expert)


def _moved_door(
    data: EpisodeDataModule, count: int, offset: int, split: str
) -> tuple[Callable[[], GoalEnv], Manifest, Callable[[], StateController]]:
    """Two-Room with another door; tasks from one room to the other."""
    make_environment = functools.partial(TwoRoom, image_size=data.image_size, door_y=DOOR_Y)
    environment, rng = make_environment(), np.random.default_rng(1 if split == "val" else 0)
    states = np.stack([environment.sample_state(rng) for _ in range(20 * count)])

    def across(state: NDArray[Any], goal: NDArray[Any]) -> bool:
        return TwoRoom.success(state, goal) or (state[0] < WALL_X) == (goal[0] < WALL_X)

    tasks = draw_tasks(
        {0: states},
        across,  # what need not be crossed is left out like what is solved
        count=count,
        offset=offset,
        seed=0,
        environment="TwoRoom with another door",
        data_fingerprint="drawn by the environment",
        split=split,
    )
    return make_environment, tasks, functools.partial(TwoRoomExpert, door_y=DOOR_Y)


def table(results: list[dict[str, Any]], chosen: list[dict[str, Any]], cost: Costs) -> list[str]:
    """Markdown rows: the tasks of all seeds together, paired with the reference where it was run.

    ``chosen`` are the same planners' results on validation tasks.
    """
    lines = [
        f"| | success | 95 % interval | by seed | validation | against {REFERENCE}, p | ms | MFLOP | jerk |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rates = {name: _rate(chosen, name) for name in chosen[0]} if chosen else {}
    contest = [name for name in rates if name in cost]
    best = min(contest, key=lambda name: (-rates[name], cost[name]["p50"])) if contest else None
    for name in results[0]:
        found = [result[name]["policies"][name] for result in results]
        outcomes = [outcome for policy in found for outcome in policy["outcomes"]]
        solved = [outcome["success"] for outcome in outcomes]
        paired = "–"
        if REFERENCE in results[0] and name != REFERENCE:
            theirs = [o["success"] for r in results for o in r[REFERENCE]["policies"][REFERENCE]["outcomes"]]
            paired = f"{mcnemar_test(solved, theirs):.2g}"
        jerk = [outcome["jerk"] for outcome in outcomes if outcome["jerk"] is not None]
        cells = [
            f"**{name}**" if name == best else name,
            f"{100 * np.mean(solved):.0f} %",
            interval(sum(solved), len(solved)),
            ", ".join(f"{100 * policy['rate']:.0f}" for policy in found),
            f"{100 * rates[name]:.0f} %" if name in rates else "–",
            paired,
            f"{cost[name]['p50']:.3g}" if name in cost else "–",
            f"{cost[name]['flops'] / 1e6:.4g}" if name in cost else "–",
            f"{np.mean(jerk):.2g}" if jerk else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _rate(results: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([result[name]["policies"][name]["rate"] for result in results]))


_PAGE = """# Beyond search

Written by `python benchmarks/beyond.py {arguments}`. Nano models, {tasks} test tasks per seed and list (the same for
all planners and seeds), budget twice the offset, PyTorch on one thread. Wilson's interval is over the tasks of all
seeds together; tasks repeat over seeds, so it is narrower than the spread over new tasks would be. p is McNemar's exact
test on the same tasks. Bold: the planner with the highest success on {tasks} *validation* tasks per seed, the quicker
of equals ({dear} were too slow to take part). Milliseconds are those of a decision, which encodes one frame and plans,
two-level ones with their subgoal; searches execute 5 blocks of it, "often" and controllers one. MFLOP are those of its
matrix products. Jerk is the mean norm of the raw actions' second difference.

{origin}

{tables}"""


def page(
    results: dict[Case, list[dict[str, Any]]], known: dict[tuple[str, int], Costs], options: argparse.Namespace
) -> str:
    """Write the page from what is there; cases are keyed by their first seed."""
    sections = []
    for case, found in results.items():
        if case.split == "test":
            chosen = results.get(dataclasses.replace(case, split="val"), [])
            sections += [
                f"## {case.title}, {len(found)} seed{'s' * (len(found) > 1)}",
                "",
                *table(found, chosen, known[case.environment, case.offset]),
            ]
    return _PAGE.format(
        arguments=" ".join(sys.argv[1:]),
        tasks=options.tasks,
        dear=" and ".join(DEAR),
        origin=origin(),
        tables="\n".join(sections),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", default=list(ENVIRONMENTS), choices=ENVIRONMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--offsets", type=int, nargs="+", default=[25, 50, 100])
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--steps", type=int, default=900, help="of the world models (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/beyond"))
    parser.add_argument("--compare", type=Path, default=Path("runs/compare"), help="runs of benchmarks/compare.py")
    parser.add_argument("--out", type=Path, default=Path("docs/results/beyond.md"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results there")
    parser.add_argument("--quick", action="store_true", help="Two-Room, one seed, 30 training steps, 4 tasks")
    options = parser.parse_args()
    if options.quick:
        options.environments, options.seeds, options.offsets, options.tasks = ["tworoom"], [0], [25], 4
        options.runs = Path("runs/beyond-quick")
        options.out = options.runs / "beyond.md"
    options.runs, options.compare = options.runs.resolve(), options.compare.resolve()
    keep_freed_memory()
    results: dict[Case, list[dict[str, Any]]] = {}
    known: dict[tuple[str, int], Costs] = {}
    rows = []
    for seed, environment in itertools.product(options.seeds, options.environments):
        trained = trainings(environment, seed, options)
        for training in trained.values():
            training.execute()
        planners = Planners(trained, load_data(environment))
        cases = [Case(environment=environment, seed=seed, offset=offset) for offset in options.offsets]
        if environment in DRAWN:
            cases += [Case(environment=environment, seed=seed, offset=50, goals=goals) for goals in DRAWN[environment]]
        for case in itertools.chain.from_iterable((dataclasses.replace(c, split="val"), c) for c in cases):
            data = load_data(environment, *([] if case.offset <= 50 else LONG_EPISODES))
            if (environment, case.offset) not in known:
                known[environment, case.offset] = costs(planners, data, environment, case.offset, options)
            found = case.execute(planners, data, options)
            results.setdefault(dataclasses.replace(case, seed=options.seeds[0]), []).append(found)
            rows += [{**dataclasses.asdict(case), "planner": name, **result} for name, result in found.items()]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(page(results, known, options))
    print(options.out.read_text())
    Benchmark("beyond", options, rows).finish()


if __name__ == "__main__":
    main()
