"""Every family as a bundle: what the graphs compute, what is written, and what is refused."""

import shutil

import numpy as np
import onnx
import pytest
import torch

from jepakit.export import VerificationError, export_bundle
from jepakit.export.bundle import WEIGHTS
from jepakit.export.precision import MEASURES
from jepakit.export.runtime.onnx_backend import OnnxBackend
from jepakit.export.runtime.torch_backend import TorchBackend
from jepakit.export.verify import _difference
from jepakit.planning import MPCConfig, PlannerConfig


def test_onnx_runtime_plans_what_pytorch_plans(exported, queries):
    model, readout, bundle = exported.model, exported.readout, exported.bundle
    problems = queries(exported.name, seed=1)
    settings = bundle.planner_config
    plans = []
    for backend in (TorchBackend(model, readout), OnnxBackend(bundle)):
        planner = settings.planner(backend)
        seen = planner.observe(problems.frames, problems.past_actions, problems.proprio)
        goal = planner.encode_goal(problems.goal_frames, problems.goal_proprio)
        plan = planner.plan(
            seen, goal, horizon=bundle.spec.horizon, rngs=[np.random.default_rng(index) for index in range(4)]
        )
        plans.append(plan)
    np.testing.assert_allclose(plans[1].actions, plans[0].actions, atol=1e-4)
    np.testing.assert_allclose(plans[1].cost, plans[0].cost, rtol=1e-4)
    assert plans[0].actions.std() > 0.1


def test_the_figures_are_in_the_manifest(exported):
    bundle = exported.bundle
    figures = bundle.manifest["verification"]["fp32"]
    scores = {name for name in bundle.graphs if name.startswith("score")}
    assert set(figures["relative_error"]) == {"encoder", *scores}
    assert 0 < max(figures["relative_error"].values()) < 1e-4
    assert figures["planning"]["elite_overlap_least"] >= 0.95
    assert figures["planning"]["queries"] == 4
    assert bundle.manifest["licence"] == "MIT"


def test_the_graphs_are_plain_and_share_their_weights(exported):
    model, bundle = exported.model, exported.bundle
    used = {name for name in model.state_dict() if not name.startswith(("mask_predictor", "context_encoder"))}
    size = sum(model.state_dict()[name].numel() * 4 for name in used)
    assert (bundle.folder / WEIGHTS).stat().st_size < 1.3 * size + 4096
    for name in bundle.graphs:
        graph = onnx.load(bundle.path(name))
        onnx.checker.check_model(bundle.path(name))
        assert graph.opset_import[0].version == 20
        assert not {"Loop", "Scan", "If", "RandomNormal", "Gemm", "BatchNormalization"} & {
            node.op_type for node in graph.graph.node
        }
        text = bundle.path(name).read_bytes()
        assert b"/zoo/" not in text  # no paths of the machine that exported


def test_dynamic_sizes_and_short_plans(lewm):
    model, readout, bundle = lewm.model, lewm.readout, lewm.bundle
    rng = np.random.default_rng(0)
    for batch, count, horizon in ((1, 1, 1), (3, 300, 2), (2, 7, 1)):
        backends = (
            TorchBackend(model, readout, environments_per_call=3),
            OnnxBackend(bundle, environments_per_call=3, candidates_per_call=128),
        )
        latents = rng.standard_normal((batch, 2, 1, 8), dtype=np.float32)
        past = rng.standard_normal((batch, 1, 6), dtype=np.float32)
        candidates = rng.standard_normal((batch, count, horizon, 6), dtype=np.float32)
        expected, found = (b.score(latents, past, candidates, latents[:, 0]) for b in backends)
        np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4)
        np.testing.assert_allclose(found.readout, expected.readout, rtol=1e-3, atol=1e-4)


def test_the_model_is_not_changed(lewm, make_model):
    fresh = make_model("lewm")
    for name, value in lewm.model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
    assert all(parameter.requires_grad for parameter in lewm.model.parameters())


def test_exporting_twice_gives_the_same_bytes(pldm, tmp_path):
    again = export_bundle(pldm.model, tmp_path / "again", horizon=2)
    for path in pldm.bundle.folder.iterdir():
        if path.suffix in (".onnx", ".bin"):
            assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_reduced_precision_is_verified_on_queries(make_model, queries, tmp_path, precision, quick, monkeypatch):
    # An untrained model of eight numbers bears less rounding than a trained one: here it is about the mechanics.
    monkeypatch.setattr("jepakit.export.exporter.LEAST_OVERLAP", 0.5)
    monkeypatch.setattr("jepakit.export.exporter.LARGEST_EXCESS", 0.1)
    model = make_model("pldm")
    problems = queries("pldm")
    with pytest.raises(ValueError, match=f"queries: found none, expected real .* {precision} cannot be verified"):
        export_bundle(model, tmp_path / "none", horizon=1, precision=precision)
    bundle = export_bundle(model, tmp_path / "bundle", horizon=1, precision=precision, queries=problems)
    figures = bundle.manifest["verification"][precision]
    assert figures["planning"]["elite_overlap_mean"] >= 0.5
    error = max(figures["relative_error"].values())
    assert 1e-6 < error < {"fp16": 0.01, "bf16": 0.05, "int8": 0.5}[precision]  # another precision, and not far off
    kinds = {tensor.data_type for tensor in onnx.load(bundle.path("score_1")).graph.initializer}
    wanted = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16, "int8": onnx.TensorProto.INT8}
    assert wanted[precision] in kinds
    if precision == "bf16":
        with pytest.raises(ValueError, match="found a bf16 bundle, which ONNX Runtime cannot compute on a CPU"):
            OnnxBackend(bundle)
    else:
        latents = OnnxBackend(bundle).encode(problems.frames)
        assert np.isfinite(latents).all()


def test_what_does_not_pass_is_kept_in_fp32_or_refused(make_model, queries, tmp_path, monkeypatch, quick):
    import jepakit.export.exporter as exporter

    asked = []

    def planning_errors(*_):
        asked.append(1)
        good = len(asked) == 4  # fp32, two measures that fail, one that passes
        return {"elite_overlap_mean": 1.0 if good else 0.5, "excess_cost": 0.0}

    monkeypatch.setattr(exporter, "planning_errors", planning_errors)
    arguments = {"horizon": 1, "precision": "fp16", "queries": queries("pldm")}
    bundle = export_bundle(make_model("pldm"), tmp_path / "bundle", **arguments)
    figures = bundle.manifest["verification"]
    assert len(figures["rejected"]) == 2
    assert figures["fp16"]["products"].startswith("all but the encoder and")
    with pytest.raises(
        VerificationError, match=r"fp16: expected finite numbers, a mean elite overlap .* found .*0\.5.*nothing was"
    ):
        export_bundle(make_model("pldm"), tmp_path / "refused", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_overflows_in_half_precision_is_found(make_model, queries, tmp_path, monkeypatch):
    monkeypatch.setattr("jepakit.export.exporter.LEAST_OVERLAP", 0.5)
    monkeypatch.setattr("jepakit.export.exporter.LARGEST_EXCESS", 0.1)
    model = make_model("pldm")
    projector = model.projector
    for value in (projector.norm.weight, projector.norm.bias):
        value.data *= 1e5  # float16 ends at 65,504
    projector.contract.weight.data /= 1e5
    arguments = {"horizon": 1, "precision": "fp16", "queries": queries("pldm")}
    bundle = export_bundle(model, tmp_path / "bundle", **arguments)
    figures = bundle.manifest["verification"]
    assert [found["products"] for found in figures["rejected"]] == ["every matrix product"]
    assert figures["rejected"][0]["relative_error"]["encoder"] is None
    assert figures["rejected"][0]["planning"] is None
    assert figures["fp16"]["products"] == "all but the encoder"
    assert figures["fp16"]["computed"] == "in float32, rounded before and after"
    assert 1e-6 < figures["fp16"]["relative_error"]["score_1"] < 0.01
    monkeypatch.setattr("jepakit.export.exporter.distinct_measures", lambda _: MEASURES[:1])
    with pytest.raises(
        VerificationError, match=r"fp16: expected finite numbers, .* found .*'encoder': None.* with every"
    ):
        export_bundle(model, tmp_path / "refused", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_numbers_that_are_not_finite_are_no_agreement():
    finite, wrong = np.ones(3, np.float32), np.array([1.0, np.nan, np.inf], np.float32)
    assert _difference(finite, finite) == 0.0
    for found, expected in ((wrong, finite), (finite, wrong), (wrong, wrong)):
        assert _difference(found, expected) == np.inf


def test_a_wrong_graph_is_found_and_leaves_nothing(make_model, tmp_path, quick):
    model = make_model("pldm")
    model.action_mean += 0.1  # the traced graphs do not know
    with pytest.raises(VerificationError, match=r"fp32: found relative errors .*score_1.*expected at most 0.001"):
        export_bundle(model, tmp_path / "bundle", horizon=1)
    assert not list(tmp_path.iterdir())


def test_a_failure_on_the_way_leaves_the_old_bundle(make_model, tmp_path, quick, monkeypatch):
    model, out = make_model("pldm"), tmp_path / "bundle"
    export_bundle(model, out, horizon=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full_disk(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jepakit.export.exporter.model_card", full_disk)
        with pytest.raises(OSError, match="no space left"):
            export_bundle(model, out, horizon=1, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_can_be_replaced(make_model, tmp_path, quick):
    export_bundle(make_model("pldm"), tmp_path / "bundle", horizon=1)
    again = export_bundle(make_model("pldm"), tmp_path / "bundle", horizon=1, licence="MIT", overwrite=True)
    assert again.manifest["licence"] == "MIT"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_overwriting_deletes_nothing_but_a_bundle(make_model, tmp_path, quick):
    model, out = make_model("pldm"), tmp_path / "bundle"
    export_bundle(model, out, horizon=1)
    (out / "engines").mkdir()
    for name in ("encoder.engine", "encoder.json", "timing.cache", ".encoder.engine.unfinished"):
        (out / "engines" / name).write_bytes(b"built here")
    folders = {name: tmp_path / name for name in ("run", "store", "notes", "beside engines", "file")}
    for name, folder in folders.items():
        if name in ("notes", "beside engines"):
            shutil.copytree(out, folder)
        elif name != "file":
            folder.mkdir()
    kept = [
        folders["run"] / "last.ckpt",
        folders["store"] / "manifest.json",
        folders["notes"] / "notes.md",
        folders["beside engines"] / "engines" / "last.ckpt",
        folders["file"],
    ]
    for file in kept:
        file.write_text("{}")
    for folder in folders.values():
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=r"not a bundle's, expected none, .* alone; choose another fold"):
                export_bundle(model, folder, horizon=1, overwrite=overwrite)
    assert [file.read_text() for file in kept] == ["{}"] * 5
    assert not list(tmp_path.glob(".*"))
    export_bundle(model, out, horizon=1, overwrite=True)
    assert not (out / "engines").exists()  # they were of the old one


def test_models_that_do_not_read_frames_are_refused(tmp_path):
    from jepakit.zoo import CJEPAModel

    for encoder in ({"encoder": "features"}, {"encoder": "oracle", "oracle_objects": [[0, 1], [2, 3], [4, 5]]}):
        model = CJEPAModel({"image_size": 16, "slots": 3, "slot_dim": 8, **encoder})
        with pytest.raises(ValueError, match=r"model: observation: found keys .*only models that read frames"):
            export_bundle(model, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_settings_that_do_not_fit_are_refused(make_model, queries, tmp_path, lewm):
    model, out = make_model("lewm"), tmp_path / "bundle"
    settings = lewm.bundle.planner_config
    for changed, message in {
        "precision": ({"precision": "fp8"}, "precision: found 'fp8', expected one of fp32"),
        "opset": ({"opset": 12}, "opset: found 12, expected 18 to 23"),
        "horizon": ({"horizon": 0}, "PlannerSpec.horizon: found 0"),
        "planner": ({"horizon": 1, "planner": settings}, "horizon: found 1, expected at least the planner's"),
        "queries": ({"queries": queries("pldm", count=0)}, "queries.frames: found shape"),
        "few queries": (
            {"precision": "fp16", "horizon": 1, "queries": queries("lewm", count=1)},
            "queries: found 1, expected at least 2 to verify fp16",
        ),
        "history": (
            {"planner": PlannerConfig(mpc=MPCConfig(horizon=1, execute_blocks=1, history=9))},
            "MPCConfig.history: found 9, expected 1 to",
        ),
    }.values():
        with pytest.raises(ValueError, match=message):
            export_bundle(model, out, **changed)
    out.mkdir()
    with pytest.raises(FileExistsError, match="bundle: exists already"):
        export_bundle(model, out)
    assert not list(out.iterdir())
