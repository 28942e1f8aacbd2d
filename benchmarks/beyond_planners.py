"""What ``beyond.py`` compares: what it trains on a world model's latents, and the planners made of it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from runs import WEIGHTS, WINDOWS, files, lightning, logging_into

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import MPCPolicy, PlannerConfig, TwoLevelConfig, TwoLevelPolicy
from jepakit.planning.evaluation.files import write_json
from jepakit.planning.evaluation.provenance import commit
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.distance.model import DistanceModel
from jepakit.zoo.latents import load_latent_model
from jepakit.zoo.macro.model import CoarseWorld, MacroModel
from jepakit.zoo.readout import Readout, fit_readout
from jepakit.zoo.weights import load_model

REFERENCE = "CEM 300×30"
HORIZON, FARTHEST = 5, 99  # blocks; environment steps, in episodes of 100 rows
#: Goals farther than half an episode are of others, twice as long or more, on which nothing was trained.
LONG_EPISODES = [
    *("--data.init_args.generate.steps=300", "--data.init_args.generate.episodes=60"),
    *("--data.init_args.generate.seed=1", "--data.init_args.val_share=0.4", "--data.init_args.test_share=0.5"),
]

#: What a decoded position is: quantities of one unit, by data module.
POSITIONS = {"TwoRoom": ("agent_x", "agent_y"), "PushT": ("agent_x", "agent_y", "block_x", "block_y")}

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

    data, steps = f"data/{environment}", WINDOWS[environment] // 128
    folder = options.runs / environment
    known = options.compare / environment / "lewm" / f"seed-{seed}"
    reused = (known / WEIGHTS / "config.json").is_file() and not options.quick
    lewm = Training(
        folder=known if reused else folder / "lewm" / f"seed-{seed}",
        arguments=configured("lewm", "size/nano", data, steps=steps),
    )

    def on_latents(kind: str, name: str, steps: int, **flags: object) -> Training:
        flags |= {"model.world_model": lewm.weights, "trainer.val_check_interval": 10 if options.quick else 1000}
        return Training(folder=folder / name / f"seed-{seed}", arguments=configured(kind, data, steps=steps, **flags))

    far = {"data.init_args.goals.max_offset": FARTHEST, "model.init_args.config.max_offset": FARTHEST}

    return {
        "lewm": lewm,
        "fastlewm": Training(
            folder=folder / "fastlewm" / f"seed-{seed}",
            arguments=configured("fastlewm", "size/nano", data, steps=steps),
        ),
        "controller": on_latents("controller", "controller", 4000, **far),
        "controller8": on_latents("controller", "controller8", 4000, **far, **{"model.init_args.config.modes": 8}),
        "distance": on_latents("distance", "distance", 3000, **far),
        "macro": on_latents("macro", "macro", 3000),
    }


def fit_position(world: TorchBackend, data: EpisodeDataModule) -> Readout:
    """Positions, linear in the latents of some thousand frames of the training episodes."""
    source, names = data.source, POSITIONS[type(data).__name__]
    columns = [data.state_names.index(name) for name in names]
    train = data.parts["train"]
    rows = np.concatenate([source.offsets[e] + np.arange(0, source.lengths[e], 10) for e in train])
    latents, states = world.encode(source.read("pixels", rows)[:, None])[:, 0], source.read("state", rows)
    return fit_readout(latents, states[:, columns], names)


class Planners:
    """Every planner by the name under which the table has it, for one environment and seed."""

    def __init__(self, trained: dict[str, Training], data: EpisodeDataModule) -> None:
        world = load_model(trained["lewm"].weights)
        self.plain = TorchBackend(world, threads=1)
        self.fast = TorchBackend(load_model(trained["fastlewm"].weights), threads=1)
        self.single, self.several = (
            TorchBackend(world, controller=load_latent_model(ControllerModel, trained[name].weights), threads=1)
            for name in ("controller", "controller8")
        )
        distance = load_latent_model(DistanceModel, trained["distance"].weights)
        self.far = TorchBackend(world, distance=distance, threads=1)
        self.position = TorchBackend(world, distance=fit_position(self.plain, data), threads=1)
        self.macro = load_latent_model(MacroModel, trained["macro"].weights)
        self.coarse = TorchBackend(CoarseWorld(world, self.macro), distance=distance, threads=1)

    def make(self, offset: int) -> dict[str, MPCPolicy]:
        """Build the planners for goals ``offset`` steps away."""
        asked = {"offset": min(offset, FARTHEST), "least_offset": 5}
        often, rarely = ({"horizon": HORIZON, "execute_blocks": blocks} for blocks in (1, HORIZON))
        small = SEARCHES["CEM 64×4"]
        ranked = {"solver": "random_shooting", "random_shooting": {"samples": 8, "iterations": 1}}
        follow = {"solver": "controller", "controller": asked, "mpc": often}
        settings: dict[str, tuple[TorchBackend, dict[str, Any]]] = {
            **{name: (self.plain, {**search, "mpc": rarely}) for name, search in SEARCHES.items()},
            "CEM 64×4, looking often": (self.plain, {**small, "mpc": often}),
            "prefix + CEM 64×4": (self.fast, {**small, "mpc": rarely}),
            "learned distance + CEM 64×4": (self.far, {**small, "mpc": rarely}),
            "decoded position + CEM 64×4": (self.position, {**small, "mpc": rarely}),
            "controller": (self.single, follow),
            "controller, 8 modes": (self.several, follow),
            "controller, 8 modes, ranked": (self.several, {**ranked, "proposals": True, **_without_solver(follow)}),
            "controller + CEM 64×4": (self.single, {**small, "proposals": True, **_without_solver(follow)}),
        }

        def policy(name: str) -> MPCPolicy:
            backend, values = settings[name]
            return PlannerConfig.parse({**values, "bounded": True}, where=name).policy(backend)

        policies = {name: policy(name) for name in settings}
        reach = self.macro.config.steps
        if offset > reach:
            for below in ("CEM 64×4", "learned distance + CEM 64×4", "controller"):
                policies[f"two-level, {below} below"] = TwoLevelPolicy(
                    policy(below), self.coarse, reach=reach, config=TwoLevelConfig(offset=offset)
                )
        return policies


def _without_solver(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "solver"}
