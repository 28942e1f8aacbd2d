"""Tiny models of every family, and their bundles. Each is exported once per session: tracing is what takes time."""

import dataclasses

import numpy as np
import pytest
import torch

from jepakit.export import Bundle, Queries, export_bundle
from jepakit.export.bundle import graphs_of
from jepakit.export.graphs import export_graph, network_of, prepare
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.planning import CEMConfig, MPCConfig, ProposalConfig
from jepakit.planning.settings import PlannerConfig
from jepakit.zoo import (
    CJEPAModel,
    ControllerConfig,
    ControllerModel,
    DINOWMModel,
    LeWMModel,
    PLDMModel,
    VJEPAModel,
)
from jepakit.zoo.files import fingerprint
from jepakit.zoo.readout import Readout

torch.set_num_threads(1)  # these models are too small to share

WORLD = {"image_size": 16, "frame_skip": 2, "action_dim": 3}
PREDICTOR = {"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 4, "predictor_mlp": 16}
VECTOR = {
    **WORLD,
    **PREDICTOR,
    "predictor_width": 12,
    "encoder": "cnn",
    "cnn_channels": [4, 6],
    "latent_dim": 8,
    "projector_hidden": 20,
    "action_hidden": 14,
}
VIT = {"patch_size": 8, "vit_width": 12, "vit_depth": 1, "vit_heads": 3, "vit_mlp": 16}
SLOTS = {**WORLD, **PREDICTOR, "slot_dim": 8, "slot_channels": 4, "slot_hidden": 8, "slot_iterations": 2}

# Family, settings, and the horizon to export. Histories and horizons are as short as the family's graphs allow.
MODELS = {
    "lewm": (LeWMModel, {**VECTOR, **VIT, "encoder": "vit", "history": 2, "directions": 16}, 2),
    "pldm": (PLDMModel, {**VECTOR, "history": 1, "predictor": "recurrent", "recurrent_hidden": 16}, 2),
    "fastlewm": (LeWMModel, {**VECTOR, "history": 1, "directions": 16, "prefix": 2, "prefix_depth": 1}, 3),
    "dinowm": (
        DINOWMModel,
        {
            **{**WORLD, **PREDICTOR, "history": 2, "encoder": "cnn", "encoder_size": 16, "cnn_channels": [4, 6]},
            **{"proprio_dim": 2, "proprio_embedding": 3, "action_embedding": 4, "predictor_width": 12},
        },
        1,
    ),
    "dinowm-dinov2": (
        DINOWMModel,
        {**WORLD, **PREDICTOR, **VIT, "history": 1, "encoder": "dinov2", "encoder_size": 24, "action_embedding": 4},
        1,
    ),
    "cjepa": (CJEPAModel, {**SLOTS, "history": 2, "slots": 3, "proprio_dim": 2}, 1),
    "cjepa-six": (CJEPAModel, {**SLOTS, "history": 1, "slots": 6, "conditioning": "concatenated"}, 1),
    "vjepa": (
        VJEPAModel,
        {
            **{**WORLD, **PREDICTOR, **VIT, "history": 1, "predictor_width": 12},
            **{"mask_predictor_width": 12, "mask_predictor_depth": 1, "mask_predictor_heads": 3},
        },
        1,
    ),
}


@dataclasses.dataclass
class FittedStatistics:
    action_mean: np.ndarray
    action_std: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    proprio_mean: np.ndarray | None = None
    proprio_std: np.ndarray | None = None


def build(name):
    """A model whose weights, statistics and batch norms are not the trivial initial ones."""
    family, values, _ = MODELS[name]
    torch.manual_seed(0)
    model = family(values)
    proprio = values.get("proprio_dim", 0)
    model.set_statistics(
        FittedStatistics(
            action_mean=np.linspace(-0.5, 0.5, 6, dtype=np.float32),
            action_std=np.linspace(0.5, 1.5, 6, dtype=np.float32),
            action_low=np.full(3, -2, np.float32),
            action_high=np.full(3, 3, np.float32),
            proprio_mean=np.linspace(-1, 1, proprio, dtype=np.float32),
            proprio_std=np.linspace(0.5, 2, proprio, dtype=np.float32),
        )
    )
    if hasattr(model.action_encoder, "contract"):
        model.action_encoder.contract.weight.data *= 8  # so that costs depend on actions, as a trained model's do
    for module_name, module in model.named_modules():
        if module_name.endswith("modulation"):
            torch.nn.init.normal_(module.weight, std=0.3)
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def draw_queries(name, count=4, seed=0):
    values = MODELS[name][1]
    rng = np.random.default_rng(seed)
    history, proprio = values["history"], values.get("proprio_dim", 0)

    def pictures(*leading):
        return rng.integers(0, 256, (*leading, 16, 16, 3), dtype=np.uint8)

    return Queries(
        frames=pictures(count, history),
        past_actions=rng.standard_normal((count, history - 1, 6), dtype=np.float32),
        goal_frames=pictures(count),
        proprio=rng.standard_normal((count, history, proprio), dtype=np.float32) if proprio else None,
        goal_proprio=rng.standard_normal((count, proprio), dtype=np.float32) if proprio else None,
    )


def settings(horizon):
    return PlannerConfig(
        cem=CEMConfig(samples=32, elites=8, iterations=3),
        mpc=MPCConfig(horizon=horizon, execute_blocks=1),
        bounded=True,
    )


@dataclasses.dataclass(frozen=True)
class Exported:
    name: str
    model: torch.nn.Module
    readout: Readout | None
    bundle: Bundle


@pytest.fixture(scope="session")
def export_once(tmp_path_factory):
    done = {}

    def export(name):
        if name not in done:
            model, readout, horizon = build(name), None, MODELS[name][2]
            if name == "lewm":
                readout = Readout(["x", "y"], 8)
                readout.weight.copy_(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
            bundle = export_bundle(
                model,
                tmp_path_factory.mktemp("bundles") / name,
                horizon=horizon,
                planner=settings(horizon),
                readout=readout,
                queries=draw_queries(name),
                licence="MIT",
            )
            done[name] = Exported(name, model, readout, bundle)
        return done[name]

    return export


@pytest.fixture(params=MODELS)
def exported(request, export_once):
    """A model of every family and its bundle."""
    return export_once(request.param)


@pytest.fixture
def lewm(export_once):
    return export_once("lewm")


@pytest.fixture
def pldm(export_once):
    return export_once("pldm")


@pytest.fixture(scope="session")
def traced():
    """Traced graphs of the tiny PLDM, for tests of what happens to them afterwards."""
    prepared, spec = prepare(build("pldm")), dataclasses.replace(TorchBackend(build("pldm")).spec, horizon=1)
    return {
        name: export_graph(network_of(name, prepared, None), graph, opset=20) for name, graph in graphs_of(spec).items()
    }


@pytest.fixture
def quick(traced, monkeypatch):
    """Make ``export_bundle`` of the tiny PLDM with horizon 1 use the graphs that are traced already."""
    graphs = iter(list(traced.values()) * 2)
    monkeypatch.setattr("jepakit.export.exporter.export_graph", lambda *_, **__: next(graphs).clone())


@pytest.fixture
def queries():
    return draw_queries


@pytest.fixture(scope="session")
def make_model():
    return build


FOLLOW = PlannerConfig(
    solver="controller", controller=ProposalConfig(offset=6, least_offset=2), mpc=MPCConfig(horizon=1, execute_blocks=1)
)


def build_controller(model, **changes):
    """A controller of three modes on the tiny PLDM."""
    torch.manual_seed(0)
    config = ControllerConfig(
        **{"frame_skip": 2, "action_dim": 3, "steps": 4, "max_offset": 8, "modes": 3, "width": 16, "latent_width": 8},
        world_model=fingerprint(model),
    )
    controller = ControllerModel(dataclasses.replace(config, **changes)).eval()
    for name in ("action_mean", "action_std", "action_low", "action_high"):
        getattr(controller, name).copy_(getattr(model, name))
    torch.nn.init.normal_(controller.modulation.weight, std=0.3)
    return controller


@pytest.fixture(scope="session")
def make_controller():
    return build_controller


@pytest.fixture(scope="session")
def follow():
    """Settings that ask a controller."""
    return FOLLOW


@pytest.fixture(scope="session")
def controlled(tmp_path_factory):
    """The tiny PLDM, its controller, and the bundle of both."""
    model = build("pldm")
    controller = build_controller(model)
    folder = tmp_path_factory.mktemp("controller") / "bundle"
    return model, controller, export_bundle(model, folder, horizon=1, planner=FOLLOW, controller=controller)
