"""Search and what may replace it, on one task list: controller, learned distance, prefix prediction. ``make beyond``.

For every environment and seed: nano LeWM and DINO-WM (those of ``benchmarks/compare.py``, if they are there), nano
Fast-LeWM, on LeWM's latents a controller, one with eight modes, a learned distance and macro-actions, and a controller
on DINO-WM's, which are the feature maps of LeWM's encoder (``beyond_planners.py``). Then all planners act on the same
validation and test tasks for every offset of the goal, with a budget of twice the offset. Outcomes are small files
under ``--records``; what is recorded is not done again, so the same command continues after an interruption, on another
machine too. Only training episodes train anything.

    python benchmarks/beyond.py --environments tworoom --seeds 0 --offsets 25
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from beyond_planners import DINOWM_SEARCH, LONG_EPISODES, REFERENCE, TWO_LEVEL, Planners, trainings
from harness import Benchmark
from numpy.typing import NDArray
from runs import ENVIRONMENTS, interval, load_data, origin, refuse_another, write_page
from torch.utils.flop_counter import FlopCounterMode

from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.recording import load_class
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.envs.base import GoalEnv
from jepakit.envs.tworoom import WALL_X, TwoRoom, TwoRoomExpert
from jepakit.planning import Policy, RandomPolicy, Scripted
from jepakit.planning.evaluation import EvaluationConfig, Manifest, evaluate, measure_latency, paired_test
from jepakit.planning.evaluation.files import write_json
from jepakit.planning.evaluation.loop import assign
from jepakit.planning.evaluation.manifest import draw_tasks
from jepakit.planning.policies import StateController

Costs = dict[str, dict[str, float]]  # by planner
DEAR = (REFERENCE, "gradient 8×20", DINOWM_SEARCH, *TWO_LEVEL)  # not tried on validation tasks
DRAWN = {"tworoom": ("drawn", "moved")}  # goals away from the demonstrations, where they can be reached in time
DOOR_Y = 150.0  # of the moved door; the models know one at 49


def measure_costs(
    planners: Planners, data: EpisodeDataModule, environment: str, offset: int, options: argparse.Namespace
) -> None:
    """Record milliseconds and operations of one decision, all planners together, on a machine best left alone.

    Operations are those of matrix products. Once: delete the file to measure again.
    """
    file = _costs_file(environment, offset, options)
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
        write_json(file, {"origin": origin(), "planners": found})


def read_costs(environment: str, offset: int, options: argparse.Namespace) -> Costs:
    """What ``measure_costs`` recorded."""
    known: Costs = json.loads(_costs_file(environment, offset, options).read_text())["planners"]
    return known


def _costs_file(environment: str, offset: int, options: argparse.Namespace) -> Path:
    records: Path = options.records
    return records / environment / f"costs-{offset}.json"


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

    def read(self, options: argparse.Namespace) -> dict[str, Any]:
        """What is recorded: ``planners``, outcomes by name; ``origin``, where they come from; whether all are there.

        ``SystemExit`` if it is of another number of tasks.
        """
        file = self._file(options.records)
        if not file.is_file():
            return {"complete": False, "tasks": options.tasks, "origin": origin(), "planners": {}}
        record: dict[str, Any] = json.loads(file.read_text())
        refuse_another(file, record, {"tasks": options.tasks})
        return record

    def _file(self, records: Path) -> Path:
        name = f"{self.split}-{self.goals}-{self.offset}.json"
        return records / self.environment / f"seed-{self.seed}" / name

    def execute(self, planners: Planners, data: EpisodeDataModule, options: argparse.Namespace) -> None:
        """Run and record all planners that are not recorded yet."""
        make_environment, tasks, expert = self._surroundings(data, options.tasks)
        policies: dict[str, Policy] = {
            "random": RandomPolicy.uniform(data.statistics.action_low, data.statistics.action_high),
            **planners.make(self.offset),
            "scripted": Scripted(expert),
        }
        config = EvaluationConfig(latency_repeats=0)  # see measure_costs
        record = self.read(options)
        for name, policy in policies.items():
            left_out = name in DEAR and (options.quick or self.split == "val")
            if name not in record["planners"] and not left_out:
                print(f"{self._file(options.records)}: {name}", flush=True)
                (found,) = evaluate({name: policy}, make_environment, tasks, config).policies
                jerk = [outcome.jerk for outcome in found.outcomes if outcome.jerk is not None]
                record["planners"][name] = {
                    "success": "".join(str(int(outcome.success)) for outcome in found.outcomes),  # 1: solved, by task
                    "jerk": float(np.mean(jerk)) if jerk else None,
                }
                write_json(self._file(options.records), record)
        write_json(self._file(options.records), {**record, "complete": True})

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

    ``results`` have the outcomes of every planner for one seed each, ``chosen`` the same for validation tasks.
    """
    lines = [
        f"| | success | 95 % interval | by seed | validation | against {REFERENCE}, p | ms | MFLOP | jerk |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rates = {name: _rate(chosen, name) for name in chosen[0] if name not in DEAR} if chosen else {}
    contest = [name for name in rates if name in cost]
    best = min(contest, key=lambda name: (-rates[name], cost[name]["p50"])) if contest else None
    for name in ("random", *cost, "scripted"):
        if not all(name in result for result in results):
            continue
        found = [result[name] for result in results]
        solved = _solved(results, name)
        paired = "–"
        if REFERENCE in results[0] and name != REFERENCE:
            pairs = [(_solved([result], name), _solved([result], REFERENCE)) for result in results]
            paired = f"{paired_test(*pairs):.2g}"
        jerk = [outcomes["jerk"] for outcomes in found if outcomes["jerk"] is not None]
        cells = [
            f"**{name}**" if name == best else name,
            f"{100 * np.mean(solved):.0f} %",
            interval(sum(solved), len(solved), seeds=len(found)),
            ", ".join(f"{100 * _rate([result], name):.0f}" for result in results),
            f"{100 * rates[name]:.0f} %" if name in rates else "–",
            paired,
            f"{cost[name]['p50']:.3g}" if name in cost else "–",
            f"{cost[name]['flops'] / 1e6:.4g}" if name in cost else "–",
            f"{np.mean(jerk):.2g}" if jerk else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _solved(results: list[dict[str, Any]], name: str) -> list[bool]:
    return [outcome == "1" for result in results for outcome in result[name]["success"]]


def _rate(results: list[dict[str, Any]], name: str) -> float:
    return float(np.mean(_solved(results, name)))


_PAGE = """# Beyond search

Written by `python benchmarks/beyond.py {arguments}`. Nano models, {tasks} test tasks per seed and list (the same for
all planners and seeds), budget twice the offset, PyTorch on one thread. A task with all its seeds is one draw: Wilson's
interval is that of {tasks} draws, which is rather too wide, and p that of an exact permutation test (`paired_test`).
Bold: the planner with the highest success on {tasks} *validation* tasks per seed, the quicker of equals; those without
a figure there were too slow to take part. Milliseconds are those of a decision, which encodes one frame and plans,
two-level ones with their subgoal.
Searches execute the 5 blocks of a plan; "timed" ones and controllers execute one. Timed searches start from what the
last plan left, and plan to be at the goal after as many steps as it is away (`mpc.arrival`). MFLOP are those of a
decision's matrix products. Jerk is the mean norm of the raw actions' second difference.

{origin}

{tables}"""


def page(cases: list[Case], options: argparse.Namespace) -> str:
    """Write the page from the records that are complete."""
    sections, origins = [], set()
    for case in (case for case in cases if case.seed == options.seeds[0]):
        both = [dataclasses.replace(case, split=split) for split in ("val", "test")]
        seeds = [[dataclasses.replace(half, seed=seed).read(options) for half in both] for seed in options.seeds]
        done = [records for records in seeds if all(record["complete"] for record in records)]
        origins |= {record["origin"] for records in done for record in records}
        if done:
            chosen, found = ([record["planners"] for record in half] for half in zip(*done, strict=True))
            sections += [f"## {case.title}, {len(done)} seed{'s' * (len(done) > 1)}", ""]
            sections += table(found, chosen, read_costs(case.environment, case.offset, options))
    return _PAGE.format(
        arguments=" ".join(sys.argv[1:]),
        tasks=options.tasks,
        origin="\n".join(sorted(origins)),
        tables="\n".join(sections),
    )


def all_cases(environment: str, options: argparse.Namespace) -> list[Case]:
    """Every task list of an environment, for every seed."""
    goals = [("episode", offset) for offset in options.offsets]
    goals += [(kind, 50) for kind in DRAWN.get(environment, ())]
    return [
        Case(environment=environment, seed=seed, offset=offset, goals=kind)
        for seed in options.seeds
        for kind, offset in goals
    ]


def execute(environment: str, seed: int, cases: list[Case], options: argparse.Namespace) -> None:
    """Train what is missing, measure costs, then run the planners of ``cases``, validation tasks first."""
    trained = trainings(environment, seed, options)
    for training in trained.values():
        training.execute()
    planners = Planners(trained, load_data(environment))
    offsets = sorted({case.offset for case in cases})
    data = {offset: load_data(environment, *([] if offset <= 50 else LONG_EPISODES)) for offset in offsets}
    for offset, episodes in data.items():
        measure_costs(planners, episodes, environment, offset, options)
    for case, split in itertools.product(cases, ("val", "test")):
        dataclasses.replace(case, split=split).execute(planners, data[case.offset], options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", default=list(ENVIRONMENTS), choices=ENVIRONMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--offsets", type=int, nargs="+", default=[25, 50, 100])
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--runs", type=Path, default=Path("runs/beyond"))
    parser.add_argument("--compare", type=Path, default=Path("runs/compare"), help="runs of benchmarks/compare.py")
    parser.add_argument("--records", type=Path, default=Path("docs/results/beyond"), help="folder of the outcomes")
    parser.add_argument("--out", type=Path, default=Path("docs/results/beyond.md"))
    parser.add_argument("--only-table", action="store_true", help="write the page from the records; run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results there")
    parser.add_argument("--quick", action="store_true", help="Two-Room, one seed, 30 training steps, 4 tasks")
    options = parser.parse_args()
    if options.quick:
        options.environments, options.seeds, options.offsets, options.tasks = ["tworoom"], [0], [25], 4
        options.runs = options.records = Path("runs/beyond-quick")
        options.out = options.runs / "beyond.md"
    options.runs, options.compare = options.runs.resolve(), options.compare.resolve()
    keep_freed_memory()
    cases = [case for environment in options.environments for case in all_cases(environment, options)]
    for seed, environment in itertools.product(options.seeds, options.environments):
        todo = [case for case in cases if (case.environment, case.seed) == (environment, seed)]
        todo = [case for case in todo if not case.read(options)["complete"]]
        if todo and not options.only_table:
            execute(environment, seed, todo, options)
            write_page(options.out, page(cases, options))
    write_page(options.out, page(cases, options))
    print(options.out.read_text())
    recorded = [(case, name, found) for case in cases for name, found in case.read(options)["planners"].items()]
    rows = [{**dataclasses.asdict(case), "planner": name, **found} for case, name, found in recorded]
    Benchmark("beyond", options, rows).finish()


if __name__ == "__main__":
    main()
