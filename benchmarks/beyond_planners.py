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
TIMED, CONTROLLER = "timed CEM 64×4", "controller"
DINOWM_SEARCH = f"DINO-WM: {TIMED}"
TWO_LEVEL = tuple(f"two-level, {below} below" for below in (TIMED, CONTROLLER))
HORIZON, FARTHEST = 5, 99  # blocks; environment steps, in episodes of 100 rows
#: Goals farther than half an episode are of others, twice as long or more, on which nothing was trained.
LONG_EPISODES = [
    *("--data.init_args.generate.steps=300", "--data.init_args.generate.episodes=60"),
    *("--data.init_args.generate.seed=1", "--data.init_args.val_share=0.4", "--data.init_args.test_share=0.5"),
]

#: What a decoded position is: quantities of one unit, by data module.
POSITIONS = {"TwoRoom": ("agent_x", "agent_y"), "PushT": ("agent_x", "agent_y", "block_x", "block_y")}


def search(solver: str, samples: int, iterations: int, **settings: int) -> dict[str, Any]:
    """Settings of a search among smooth plans."""
    sizes = {"samples": samples, "iterations": iterations, "noise_exponent": 2.0}
    return {"solver": solver, solver: {**sizes, **settings}}


SEARCHES = {
    REFERENCE: search("cem", 300, 30, elites=30),
    "CEM 64×4": search("cem", 64, 4, elites=8),
    "iCEM 64×4": search("icem", 64, 4, elites=8),
    "random shooting 32×3": search("random_shooting", 32, 3),
    "gradient 8×20": search("gradient", 8, 20),
}


def proposed(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """CEM of several sizes from a controller's proposals, by name; ``settings`` are all but the search's."""
    sizes = ((64, 4), (32, 4), (32, 2))
    return {
        f"{CONTROLLER} + timed CEM {samples}×{iterations}": {
            **settings,
            **search("cem", samples, iterations, elites=8),
        }
        for samples, iterations in sizes
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

    def world(model: str, size: str, **flags: object) -> Training:
        known, own = (runs / environment / model / f"seed-{seed}" for runs in (options.compare, options.runs))
        reused = (known / WEIGHTS / "config.json").is_file() and not options.quick
        arguments = configured(model, size, data, steps=WINDOWS[environment] // 128, **flags)
        return Training(folder=known if reused else own, arguments=arguments)

    def on_latents(of: Training, kind: str, name: str, steps: int, **flags: object) -> Training:
        flags |= {"model.world_model": of.weights, "trainer.val_check_interval": 10 if options.quick else 1000}
        arguments = configured(kind, data, steps=steps, **flags)
        return Training(folder=options.runs / environment / name / f"seed-{seed}", arguments=arguments)

    far = {"data.init_args.goals.max_offset": FARTHEST, "model.init_args.config.max_offset": FARTHEST}
    modes = {"model.init_args.config.modes": 8}
    tokens = {"model.init_args.config.flatten": True, "trainer.callbacks.init_args.dtype": "float16"}
    lewm = world("lewm", "size/nano")
    dinowm = world("dinowm", "size/nano_dinowm", **{"model.init_args.encoder_weights": lewm.weights})
    return {
        "lewm": lewm,
        "fastlewm": world("fastlewm", "size/nano"),
        "dinowm": dinowm,
        "controller": on_latents(lewm, "controller", "controller", 4000, **far),
        "controller8": on_latents(lewm, "controller", "controller8", 4000, **far, **modes),
        "controller_dinowm": on_latents(dinowm, "controller", "controller_dinowm", 4000, **far, **tokens),
        "distance": on_latents(lewm, "distance", "distance", 3000, **far),
        "macro": on_latents(lewm, "macro", "macro", 3000),
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
        self.patches = TorchBackend(
            load_model(trained["dinowm"].weights),
            controller=load_latent_model(ControllerModel, trained["controller_dinowm"].weights),
            threads=1,
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
        follow = {"solver": "controller", "controller": asked, "mpc": often}
        timed = {**SEARCHES["CEM 64×4"], "mpc": {**often, "arrival": offset, "warm_start": True}}
        from_controller = {**timed, "proposals": True, "controller": asked}
        settings: dict[str, tuple[TorchBackend, dict[str, Any]]] = {
            **{name: (self.plain, {**search, "mpc": rarely}) for name, search in SEARCHES.items()},
            TIMED: (self.plain, timed),
            "prefix + timed CEM 64×4": (self.fast, timed),
            "learned distance + timed CEM 64×4": (self.far, timed),
            "decoded position + timed CEM 64×4": (self.position, timed),
            CONTROLLER: (self.single, follow),
            "controller, 8 modes": (self.several, follow),
            "controller, 8 modes, ranked": (self.several, {**from_controller, **search("random_shooting", 8, 1)}),
            **{name: (self.single, values) for name, values in proposed(from_controller).items()},
            "DINO-WM: controller": (self.patches, follow),
        }

        def policy(name: str) -> MPCPolicy:
            backend, values = settings[name]
            return PlannerConfig.parse({**values, "bounded": True}, where=name).policy(backend)

        reach = self.macro.config.steps
        if offset <= reach:  # beyond, it would take most of the time of all planners
            settings[DINOWM_SEARCH] = self.patches, timed
        policies = {name: policy(name) for name in settings}
        if offset > reach:
            for name, below in zip(TWO_LEVEL, (TIMED, CONTROLLER), strict=True):
                policies[name] = TwoLevelPolicy(
                    policy(below), self.coarse, reach=reach, config=TwoLevelConfig(offset=offset)
                )
        return policies
