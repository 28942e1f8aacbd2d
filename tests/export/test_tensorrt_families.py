"""Every family's graphs are built by the real TensorRT-RTX: one that it cannot parse or build is a failed test.

And planned with: engines that compute with ONNX Runtime stand in for the GPU, behind the real backend and runner.
"""

import importlib.util
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from jepakit.export.bundle import Bundle, write_manifest
from jepakit.export.onnx_files import write_graphs
from jepakit.export.precision import MEASURES, lower
from jepakit.export.runtime.cuda import Cuda
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.export.runtime.tensorrt_backend import TensorRTBackend
from jepakit.export.runtime.tensorrt_library import EngineConfig, Library
from jepakit.export.tensorrt import build_engines

CONFIG = EngineConfig(runtime="tensorrt-rtx", candidates=(1, 6, 20))


@pytest.fixture(scope="module")
def fakes():
    """The module ``test_tensorrt_backend`` (test folders are not packages)."""
    file = Path(__file__).parent / "runtime" / "test_tensorrt_backend.py"
    spec = importlib.util.spec_from_file_location("fakes_of_tensorrt", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lowered(bundle, precision, folder):
    """The bundle in a lower precision, without the verification that untrained models need not pass."""
    folder.mkdir()
    graphs = {name: ir.load(bundle.path(name)) for name in bundle.graphs}
    write_graphs(lower(graphs, precision, MEASURES[0]), folder)
    (folder / "MODEL_CARD.md").write_text("")
    kept = ("jepakit", "model", "opset", "planner", "verification", "licence")
    write_manifest(folder, {**{key: bundle.manifest[key] for key in kept}, "precision": precision}, bundle.spec)
    return Bundle.open(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_graph_of_every_family_is_built(exported, precision, tmp_path):
    bundle = exported.bundle
    if precision != "fp32":
        bundle = lowered(bundle, precision, tmp_path / "bundle")
    files = build_engines(bundle, CONFIG, out=tmp_path / "engines", say=lambda _: None)
    assert list(files) == list(bundle.graphs)
    assert all(file.stat().st_size > 1000 for file in files.values())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_controllers_graph_is_built(controlled, precision, tmp_path):
    bundle = controlled[2] if precision == "fp32" else lowered(controlled[2], precision, tmp_path / "bundle")
    files = build_engines(bundle, CONFIG, out=tmp_path / "engines", say=lambda _: None)
    assert list(files) == ["encoder", "score_1", "controller"]


def test_the_backend_proposes_what_onnx_runtime_proposes(controlled, open_on_fakes):
    backend = open_on_fakes(controlled[2])
    here, there = np.random.default_rng(0).standard_normal((2, 3, 1, 8), dtype=np.float32)
    asked = here, there, np.float32([1, 4, 8])
    np.testing.assert_allclose(backend.propose(*asked), OnnxBackend(controlled[2]).propose(*asked), atol=1e-5)


def on_onnx_runtime(file):
    session = ort.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(None, inputs), strict=True))


@pytest.fixture
def open_on_fakes(fakes, tmp_path):
    """Put a bundle behind the real backend on a fake card, whose memory must be free again at the end."""
    card = fakes.FakeCudaRuntime(memory=1 << 24)
    opened = []

    def open_bundle(bundle):
        class OnFakes(Library):
            def load(self, file, graph, config):
                return fakes.FakeCudaEngine(card, graph, on_onnx_runtime(bundle.path(file.stem)))

        library = OnFakes("tensorrt-rtx")
        options = {"engines": tmp_path, "say": lambda _: None, "cuda": Cuda(card), "library": library}
        opened.append(TensorRTBackend(bundle, CONFIG, **options))
        return opened[-1]

    yield open_bundle
    for backend in opened:
        backend.close()
    assert not card.blocks


def test_the_backend_plans_what_onnx_runtime_plans(exported, queries, open_on_fakes):
    bundle = exported.bundle
    backend = open_on_fakes(bundle)
    problems, settings = queries(exported.name, seed=1), bundle.planner_config
    plans = []
    for engine in (OnnxBackend(bundle), backend):
        planner = settings.planner(engine)
        seen = planner.observe(problems.frames, problems.past_actions, problems.proprio)
        goal = planner.encode_goal(problems.goal_frames, problems.goal_proprio)
        plans.append(planner.plan(seen, goal, horizon=1, rngs=[np.random.default_rng(index) for index in range(4)]))
    np.testing.assert_allclose(plans[1].actions, plans[0].actions, atol=1e-5)
    np.testing.assert_allclose(plans[1].cost, plans[0].cost, rtol=1e-5)
