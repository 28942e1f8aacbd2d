"""Engines are built by the real TensorRT-RTX, which needs no GPU for that."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tensorrt_rtx
from onnx import TensorProto, helper, numpy_helper

from jepakit.export.bundle import Bundle, Graph, TensorType
from jepakit.export.runtime.cuda import Cuda, CudaError
from jepakit.export.runtime.tensorrt_library import EngineConfig, Library, check_tensors
from jepakit.export.tensorrt import build_engines, load_timings, save_timings

RTX = EngineConfig(runtime="tensorrt-rtx", candidates=(1, 8, 16))
SCORE = Graph(
    {"candidates": TensorType("float32", ("B", "S", 2, 3)), "goal": TensorType("float32", ("B", 1, 1))},
    {"distance": TensorType("float32", ("B", "S", 2))},
)
PARTS = ("library", "backend")
CUDA = {"cudaStreamNonBlocking", "cudaStreamCaptureMode"}
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def write_score(folder, *, operator="Abs", dtype="float32", width=3, output="distance", opset=20):
    """Sum of a weighted action block minus the goal; the weights lie in weights.bin as in a bundle."""
    weights = np.linspace(-1, 1, width, dtype=dtype).reshape(width, 1)
    (folder / "weights.bin").write_bytes(weights.tobytes())
    tensor = numpy_helper.from_array(weights, "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.external_data.add(key="length", value=str(weights.nbytes))
    kind = TYPES[dtype]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["candidates", "weights"], ["product"]),
            helper.make_node("Squeeze", ["product", "last"], ["sum"]),
            helper.make_node("Sub", ["sum", "goal"], ["gap"]),
            helper.make_node(operator, ["gap"], [output], name="the_last"),
        ],
        "score",
        [
            helper.make_tensor_value_info("candidates", kind, ["B", "S", 2, width]),
            helper.make_tensor_value_info("goal", kind, ["B", 1, 1]),
        ],
        [helper.make_tensor_value_info(output, kind, ["B", "S", 2])],
        [tensor, numpy_helper.from_array(np.array([-1]), "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    (folder / "score_1.onnx").write_bytes(model.SerializeToString())


def make_bundle(folder, precision="fp32", onnx_hash="1"):
    """As much of a bundle as the builder looks at."""
    hashes = {"score_1.onnx": {"sha256": onnx_hash}, "weights.bin": {"sha256": "2"}}
    return Bundle(folder, SimpleNamespace(), {"score_1": SCORE}, {"precision": precision, "files": hashes})


class Gpu:
    """A CUDA runtime that knows one card."""

    def __init__(self, name="Fake Orin", capability=(8, 7)):
        self.name, self.capability = name, capability

    def cudaGetDeviceProperties(self, device):
        major, minor = self.capability
        return 0, SimpleNamespace(name=self.name.encode(), major=major, minor=minor)


class Trusting(Library):
    """Loads nothing, as if a GPU were there; remembers what it was asked to check."""

    def __init__(self):
        super().__init__("tensorrt-rtx")
        self.loaded = []

    def load(self, file, graph, config):
        self.loaded.append(file)


def build(bundle, config=RTX, *, gpu=None, **options):
    said = []
    cuda = Cuda(gpu or Gpu())
    library = Trusting()
    files = build_engines(bundle, config, say=said.append, cuda=cuda, library=library, **options)
    return files, said, library


def test_an_engine_is_built_once_and_checked_where_there_is_a_gpu(tmp_path):
    write_score(tmp_path)
    files, said, library = build(make_bundle(tmp_path))
    file = tmp_path / "engines" / "score_1.engine"
    assert files == {"score_1": file}
    assert file.stat().st_size > 1000
    assert said == [f"building {file}: there is none yet"]
    assert library.loaded == [file]
    again, said, library = build(make_bundle(tmp_path))
    assert (again, said, library.loaded) == (files, [], [])
    assert sorted(path.name for path in file.parent.iterdir()) == ["score_1.engine", "score_1.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": Gpu("Fake Thor")}, r"built for gpu Fake Orin \(SM 87\), this is Fake Thor \(SM 87\)"),
        ({"gpu": Gpu(capability=(11, 0))}, r"gpu Fake Orin \(SM 87\), this is Fake Orin \(SM 110\)"),
        ({"onnx_hash": "other"}, "built for onnx 1, this is other"),
        ({"precision": "fp16"}, "built for precision fp32, this is fp16"),
        ({"candidates": (1, 9, 16)}, r"built for candidates \[1, 8, 16\], this is \[1, 9, 16\]"),
        ({"environments": (1, 2, 2)}, "built for environments"),
        ({"workspace_mib": 64}, "built for workspace_mib 1024, this is 64"),
        ({"library": "tensorrt-rtx 1.0"}, r"built for library tensorrt-rtx 1\.0, this is tensorrt-rtx 1"),
        ({"damage": "engine"}, "the one here is damaged"),
        ({"damage": "json"}, "no readable record"),
    ],
)
def test_what_was_built_for_something_else_is_built_again_and_said(tmp_path, change, reason):
    write_score(tmp_path)
    build(make_bundle(tmp_path))
    file = tmp_path / "engines" / "score_1.engine"
    record = file.with_suffix(".json")
    if "library" in change:
        values = json.loads(record.read_text())
        values["key"]["library"] = change["library"]
        record.write_text(json.dumps(values))
    if "damage" in change:
        damaged = file.with_suffix(f".{change['damage']}")
        damaged.write_bytes(damaged.read_bytes()[:-1])
    settings = {name: change[name] for name in ("candidates", "environments", "workspace_mib") if name in change}
    config = EngineConfig(runtime="tensorrt-rtx", **({"candidates": (1, 8, 16)} | settings))
    identity = {name: change[name] for name in ("precision", "onnx_hash") if name in change}
    _, said, library = build(make_bundle(tmp_path, **identity), config, gpu=change.get("gpu"))
    assert len(said) == 1
    assert re.search(reason, said[0]), said
    assert library.loaded == [file]
    assert build(make_bundle(tmp_path, **identity), config, gpu=change.get("gpu"))[1] == []


def test_an_engine_that_does_not_load_is_built_again(tmp_path):
    class Refusing(Trusting):
        def load(self, file, graph, config):
            raise ValueError("refused")

    write_score(tmp_path)
    with pytest.raises(ValueError, match="refused"):
        build_engines(make_bundle(tmp_path), RTX, say=lambda _: None, cuda=Cuda(Gpu()), library=Refusing())
    assert "no readable record" in build(make_bundle(tmp_path))[1][0]


@pytest.mark.parametrize("name", ["score_1.engine", "score_1.json"])
def test_an_engine_that_was_downloaded_is_built_again(tmp_path, name):
    """Links are what a Hub's cache has; an engine is native code that says itself what it was built for."""
    write_score(tmp_path)
    build(make_bundle(tmp_path))
    file = tmp_path / "engines" / name
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    assert "was not built here" in build(make_bundle(tmp_path))[1][0]
    assert build(make_bundle(tmp_path))[1] == []


def test_without_a_gpu_rtx_shows_that_the_graphs_can_be_built_and_the_target_builds_again(tmp_path):
    write_score(tmp_path)
    said = []
    build_engines(make_bundle(tmp_path), RTX, say=said.append)
    key = json.loads((tmp_path / "engines" / "score_1.json").read_text())["key"]
    assert key["gpu"] == "none"
    assert key["library"] == f"tensorrt-rtx {tensorrt_rtx.__version__}"
    assert "built for gpu none, this is Fake Orin" in build(make_bundle(tmp_path))[1][0]


def test_engines_may_lie_elsewhere(tmp_path):
    write_score(tmp_path)
    files, _, _ = build(make_bundle(tmp_path), out=tmp_path / "a" / "b")
    assert files["score_1"].parent == tmp_path / "a" / "b"
    assert not (tmp_path / "engines").exists()


def test_a_graph_that_cannot_be_parsed_is_an_error_with_the_parsers_words(tmp_path):
    write_score(tmp_path, operator="NoSuchOperator")
    with pytest.raises(
        ValueError, match=r"score_1\.onnx: tensorrt-rtx .* cannot parse .*'the_last' \(NoSuchOperator\)"
    ):
        build(make_bundle(tmp_path))
    assert not list((tmp_path / "engines").iterdir())


def test_missing_weights_are_an_error(tmp_path):
    write_score(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ValueError, match=r"cannot parse this graph: .*weights"):
        build(make_bundle(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dtype": "float16"},
            r"candidates: found DataType.HALF \(-1, -1, 2, 3\), expected float32 \('B', 'S', 2, 3\)",
        ),
        ({"width": 4}, r"candidates: found float32 \(-1, -1, 2, 4\), expected float32 \('B', 'S', 2, 3\)"),
        ({"output": "costs"}, r"outputs: found \['costs'\], expected \['distance'\]"),
    ],
)
def test_what_was_parsed_must_be_what_the_bundle_says(tmp_path, changes, message):
    write_score(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        build(make_bundle(tmp_path))


def test_a_graph_that_cannot_be_built_is_an_error_with_the_logs_words(tmp_path):
    write_score(tmp_path)
    model = onnx.load(tmp_path / "score_1.onnx", load_external_data=False)
    # Reshaping to a width that no number of candidates of the profile has is found by the builder, not the parser.
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 7, 2]), "seven"))
    model.graph.node.insert(3, helper.make_node("Reshape", ["gap", "seven"], ["seventh"]))
    model.graph.node[4].input[0] = "seventh"
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("distance", TensorProto.FLOAT, [1, 7, 2]))
    (tmp_path / "score_1.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"score_1|distance"):
        build(make_bundle(tmp_path))


def test_int8_bundles_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"precision: found int8, .* export with --precision fp16, or .* engine onnx"):
        build(make_bundle(tmp_path, precision="int8"))
    assert not (tmp_path / "engines").exists()


def test_tensorrt_itself_needs_a_gpu(tmp_path):
    with pytest.raises(
        CudaError, match=r"cudaGetDeviceProperties: cudaErrorInsufficientDriver: .*run this on the robot"
    ):
        build_engines(make_bundle(tmp_path), EngineConfig(), library=Trusting())


def test_timings_are_kept_from_build_to_build(tmp_path):
    """On the real cache objects; TensorRT-RTX deprecates them, because it has no timings to keep."""
    settings = tensorrt_rtx.Builder(Library("tensorrt-rtx").logger).create_builder_config()
    file = tmp_path / "timing.cache"
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        load_timings(settings, file)
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        save_timings(settings, file)
    assert file.stat().st_size > 0
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        load_timings(settings, file)


class Rejecting:
    """Builder settings whose GPU is not the one the kept timings are of."""

    def __init__(self):
        self.caches = []

    def create_timing_cache(self, serialized_timing_cache):
        return serialized_timing_cache

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.caches.append(cache)
        return cache == b""


def test_timings_of_another_gpu_are_not_used(tmp_path):
    (tmp_path / "timing.cache").write_bytes(b"another")
    settings = Rejecting()
    load_timings(settings, tmp_path / "timing.cache")
    assert settings.caches == [b"another", b""]


def test_lengths_may_be_fixed_where_the_profile_leaves_no_choice():
    def check(shape, **settings):
        found = Graph({"x": TensorType("float32", shape)}, {})
        check_tensors("engine", found, Graph({"x": TensorType("float32", ("B", "S", 4))}, {}), EngineConfig(**settings))

    check((-1, -1, 4), environments=(1, 2, 3))
    check((1, -1, 4))
    check((-1, -1, 4))
    check((1, 7, 4), candidates=(7, 7, 7))
    for shape in [(2, -1, 4), (1, 300, 4), (1, -1, 5), (1, -1), (1, -1, -1)]:
        with pytest.raises(ValueError, match="engine: x: found float32"):
            check(shape)
    with pytest.raises(ValueError, match="engine: x: found float32"):
        check((1, -1, 4), environments=(1, 2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": (0, 1, 2)}, "candidates: found 0,1,2, expected 1 <= smallest"),
        ({"candidates": (5, 4, 6)}, "candidates: found 5,4,6"),
        ({"environments": (1, 3, 2)}, "environments: found 1,3,2"),
        ({"workspace_mib": 0}, "workspace_mib: found 0"),
        ({"runtime": "cuda"}, "runtime: found 'cuda', expected one of tensorrt, tensorrt-rtx"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"EngineConfig.{message}"):
        EngineConfig(**settings)


def test_every_name_that_is_used_was_there_in_the_oldest_version(fixtures_dir):
    """A list, because TensorRT 10.3 cannot be imported without its libraries, which are not in the registry."""
    listed = set(json.loads((fixtures_dir / "tensorrt-10.3-names.json").read_text())["names"])
    objects = "trt|builder|network|parser|settings|profile|engine|context|api|error"
    used = set()
    for module in ("jepakit.export.tensorrt", *(f"jepakit.export.runtime.tensorrt_{part}" for part in PARTS)):
        source = Path(importlib.import_module(module).__file__).read_text()
        used |= set(re.findall(rf"\b(?:{objects})\.(\w+)", source))
    assert len(used) > 30
    assert used - listed == CUDA | {"__version__"}
