"""Search and what may replace it, on one task list: controller, learned distance, prefix prediction. ``make beyond``.

For every environment and seed: nano LeWM (that of ``benchmarks/compare.py``, if it is there), nano Fast-LeWM, and on
LeWM's latents a controller, one with eight modes, and a learned distance. Then all planners act on the same test tasks
for every offset of the goal, with a budget of twice the offset. What is there is not done again, so the same command
continues after an interruption. Only episodes of the training part train anything.

    python benchmarks/beyond.py --environments tworoom --seeds 0 --offsets 25
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Benchmark
from runs import ENVIRONMENTS, WEIGHTS, files, interval, lightning, load_data, logging_into, origin

from jepakit.cli.runtime import keep_freed_memory
from jepakit.datamodules.recording import load_class
from jepakit.datamodules.tasks import TaskConfig, environment_factory, tasks_of
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import Policy, RandomPolicy, Scripted
from jepakit.planning.evaluation import EvaluationConfig, evaluate, mcnemar_test
from jepakit.planning.evaluation.files import write_json
from jepakit.planning.evaluation.provenance import commit
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.distance.model import DistanceModel
from jepakit.zoo.latents import load_latent_model
from jepakit.zoo.weights import load_model

REFERENCE = "CEM 300×30"
HORIZON, FARTHEST = 5, 99  # blocks; environment steps, in episodes of 100 rows
#: Goals farther than half an episode are of others, twice as long or more, on which nothing was trained.
LONG_EPISODES = [
    f"--data.init_args.{name}={value}"
    for name, value in (("generate.steps", 300), ("generate.episodes", 200), ("generate.seed", 1), ("test_share", 0.5))
]

SMALL = {"noise_exponent": 2.0}
SEARCHES: dict[str, dict[str, Any]] = {
    REFERENCE: {"solver": "cem", "cem": {"samples": 300, "iterations": 30, "elites": 30, **SMALL}},
    "CEM 64×4": {"solver": "cem", "cem": {"samples": 64, "iterations": 4, "elites": 8, **SMALL}},
    "iCEM 64×4": {"solver": "icem", "icem": {"samples": 64, "iterations": 4, "elites": 8, **SMALL}},
    "random shooting 32×3": {"solver": "random_shooting", "random_shooting": {"samples": 32, "iterations": 3, **SMALL}},
    "gradient 8×20": {"solver": "gradient", "gradient": {"samples": 8, "iterations": 20, **SMALL}},
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A ``lightning fit`` whose weights lie in ``folder``."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def weights(self) -> Path:
        """Exist once the training is over."""
        return self.folder / WEIGHTS

    def execute(self) -> None:
        """Train unless the weights are there; raises ``CalledProcessError`` when that fails."""
        if (self.weights / "config.json").is_file():
            return
        spent = lightning("fit", [*self.arguments, *logging_into(self.folder)], self.folder)
        write_json(self.folder / "cost.json", {"fit_cpu_seconds": spent, "commit": commit()})


def trainings(environment: str, seed: int, options: argparse.Namespace) -> dict[str, Training]:
    """Everything that is trained for one environment and seed, in this order."""

    def configured(*names: str, steps: int, **flags: object) -> tuple[str, ...]:
        settings = {"seed_everything": seed, "trainer.max_steps": 30 if options.quick else steps, **flags}
        return (*files(*names), *(f"--{name}={value}" for name, value in settings.items()))

    data = f"data/{environment}"
    folder = options.runs / environment
    known = options.compare / environment / "lewm" / f"seed-{seed}"
    reused = (known / WEIGHTS / "config.json").is_file() and not options.quick
    lewm = Training(
        folder=known if reused else folder / "lewm" / f"seed-{seed}",
        arguments=configured("lewm", "size/nano", data, steps=options.steps),
    )

    def on_latents(kind: str, name: str, steps: int, **flags: object) -> Training:
        flags |= {"model.world_model": lewm.weights, "data.init_args.goals.max_offset": FARTHEST}
        flags |= {
            "model.init_args.config.max_offset": FARTHEST,
            "trainer.val_check_interval": 10 if options.quick else 1000,
        }
        return Training(folder=folder / name / f"seed-{seed}", arguments=configured(kind, data, steps=steps, **flags))

    return {
        "lewm": lewm,
        "fastlewm": Training(
            folder=folder / "fastlewm" / f"seed-{seed}",
            arguments=configured("fastlewm", "size/nano", data, steps=options.steps),
        ),
        "controller": on_latents("controller", "controller", 4000),
        "controller8": on_latents("controller", "controller8", 4000, **{"model.init_args.config.modes": 8}),
        "distance": on_latents("distance", "distance", 3000),
    }


def planners(trained: dict[str, Training], offset: int, *, quick: bool) -> dict[str, Policy]:
    """Every planner by the name under which the table has it."""
    world = load_model(trained["lewm"].weights)
    plain = TorchBackend(world, threads=1)
    fast = TorchBackend(load_model(trained["fastlewm"].weights), threads=1)
    single, several = (
        TorchBackend(world, controller=load_latent_model(ControllerModel, trained[name].weights), threads=1)
        for name in ("controller", "controller8")
    )
    far = TorchBackend(world, distance=load_latent_model(DistanceModel, trained["distance"].weights), threads=1)
    asked = {"offset": min(offset, FARTHEST), "least_offset": 5}
    often, rarely = ({"horizon": HORIZON, "execute_blocks": blocks} for blocks in (1, HORIZON))
    ranked = {"solver": "random_shooting", "random_shooting": {"samples": 8, "iterations": 1}}
    settings: dict[str, tuple[TorchBackend, dict[str, Any]]] = {
        **{name: (plain, {**search, "mpc": rarely}) for name, search in SEARCHES.items()},
        "CEM 64×4, looking often": (plain, {**SEARCHES["CEM 64×4"], "mpc": often}),
        "prefix + CEM 64×4": (fast, {**SEARCHES["CEM 64×4"], "mpc": rarely}),
        "learned distance + CEM 64×4": (far, {**SEARCHES["CEM 64×4"], "mpc": rarely}),
        "controller": (single, {"solver": "controller", "controller": asked, "mpc": often}),
        "controller, 8 modes": (several, {"solver": "controller", "controller": asked, "mpc": often}),
        "controller, 8 modes, ranked": (several, {**ranked, "proposals": True, "controller": asked, "mpc": often}),
        "controller + CEM 64×4": (
            single,
            {**SEARCHES["CEM 64×4"], "proposals": True, "controller": asked, "mpc": often},
        ),
    }
    if quick:
        del settings[REFERENCE], settings["gradient 8×20"]
    return {
        name: PlannerConfig.parse({**values, "bounded": True}, where=name).policy(backend)
        for name, (backend, values) in settings.items()
    }


def run(environment: str, seed: int, offset: int, options: argparse.Namespace) -> dict[str, Any]:
    """Results of all planners on one task list; from the file, if they are there."""
    file: Path = options.runs / environment / f"seed-{seed}-offset-{offset}.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    print(f"{environment}, seed {seed}, offset {offset}", flush=True)
    trained = trainings(environment, seed, options)
    for training in trained.values():
        training.execute()
    data = load_data(environment, *([] if offset <= 50 else LONG_EPISODES))
    policies: dict[str, Policy] = {
        "random": RandomPolicy.uniform(data.statistics.action_low, data.statistics.action_high),
        **planners(trained, offset, quick=options.quick),
    }
    assert data.expert is not None
    policies["scripted"] = Scripted(load_class(data.expert))
    config = EvaluationConfig(latency_repeats=3 if options.quick else 20)
    tasks = tasks_of(data, TaskConfig(count=options.tasks, offset=offset))
    result = evaluate(policies, environment_factory(data), tasks, config)
    plain = result.plain()
    write_json(file, plain)
    return plain


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown rows: the tasks of all seeds together, paired with the reference where it was run."""
    lines = [
        "| | success | 95 % interval | by seed | against " + REFERENCE + ", p | ms per decision | jerk |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in results[0]["policies"]:
        found = [result["policies"][name] for result in results]
        outcomes = [outcome for policy in found for outcome in policy["outcomes"]]
        solved = [outcome["success"] for outcome in outcomes]
        paired = "–"
        if REFERENCE in results[0]["policies"] and name != REFERENCE:
            theirs = [outcome["success"] for result in results for outcome in result["policies"][REFERENCE]["outcomes"]]
            paired = f"{mcnemar_test(solved, theirs):.2g}"
        times = [policy["latency_ms"]["p50"] for policy in found if policy["latency_ms"]]
        jerk = [outcome["jerk"] for outcome in outcomes if outcome["jerk"] is not None]
        cells = [
            name,
            f"{100 * np.mean(solved):.0f} %",
            interval(sum(solved), len(solved)),
            ", ".join(f"{100 * policy['rate']:.0f}" for policy in found),
            paired,
            f"{np.median(times):.3g}" if times else "–",
            f"{np.mean(jerk):.2g}" if jerk else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


_PAGE = """# Beyond search

Written by `python benchmarks/beyond.py {arguments}`. Nano models, {tasks} test tasks per seed and offset (the same for
all planners and seeds), budget twice the offset, PyTorch on one thread. Wilson's interval is over the tasks of all
seeds together; tasks repeat over seeds, so it is narrower than the spread over new tasks would be. p is McNemar's exact
test on the same tasks. A decision encodes one frame and plans; searches execute 5 blocks of it, "often" and controllers
one. Jerk is the mean norm of the raw actions' second difference.

{origin}

{tables}"""


def page(results: dict[tuple[str, int], list[dict[str, Any]]], options: argparse.Namespace) -> str:
    """The whole page."""
    sections = []
    for (environment, offset), found in results.items():
        sections += [
            f"## {ENVIRONMENTS[environment]}, goals {offset} steps away, {len(found)} seed{'s' * (len(found) > 1)}",
            "",
            *table(found),
        ]
    return _PAGE.format(
        arguments=" ".join(sys.argv[1:]),
        tasks=options.tasks,
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
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for environment in options.environments:
            for offset in options.offsets:
                results.setdefault((environment, offset), []).append(run(environment, seed, offset, options))
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(page(results, options))
    print(options.out.read_text())
    rows = [
        {"environment": environment, "offset": offset, **result}
        for (environment, offset), found in results.items()
        for result in found
    ]
    Benchmark("beyond", options, rows).finish()


if __name__ == "__main__":
    main()
