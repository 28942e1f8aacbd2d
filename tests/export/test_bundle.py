"""Opening bundles: what is damaged or does not fit is refused by name."""

import json
import shutil

import numpy as np
import pytest

from jepakit.export import Bundle
from jepakit.export.bundle import CARD, MANIFEST, WEIGHTS, _render, graphs_of, plain_spec, read_spec
from jepakit.export.runtime import open_backend
from jepakit.export.runtime.onnx_backend import OnnxBackend


@pytest.fixture
def copy(pldm, tmp_path):
    """A bundle to spoil."""
    return shutil.copytree(pldm.bundle.folder, tmp_path / "bundle")


def change(folder, edit):
    """Edit the manifest as somebody would who also knows how to sign it."""
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(_render(manifest))


def test_what_was_exported_is_what_is_opened(lewm):
    bundle = Bundle.open(lewm.bundle.folder)
    spec = bundle.spec
    assert (spec.image_size, spec.history, spec.frame_skip, spec.action_dim) == (16, 2, 2, 3)
    assert (spec.tokens, spec.width, spec.horizon, spec.readout) == (1, 8, 2, ("x", "y"))
    np.testing.assert_array_equal(spec.action_mean, lewm.model.action_mean)
    np.testing.assert_array_equal(spec.action_high, [3, 3, 3])
    assert list(bundle.graphs) == ["encoder", "score_1", "score_2"]
    assert list(bundle.graphs["score_2"].inputs) == ["history", "past_actions", "candidates", "goal"]
    assert bundle.graphs["score_1"].outputs["readout"].shape == ("B", "S", 2, 2)
    assert bundle.planner_config.cem.samples == 32
    assert bundle.planner_config.bounded
    assert bundle.manifest["model"]["family"] == "lewm"
    assert bundle.manifest["model"]["config"]["latent_dim"] == 8
    assert "lewm" in (bundle.folder / CARD).read_text()


def test_models_that_follow_objects_have_an_encoder_per_history(export_once):
    bundle = export_once("cjepa").bundle
    assert list(bundle.graphs) == ["encoder_1", "encoder_2", "score_1", "score_2"]
    assert bundle.graphs["encoder_2"].inputs["proprio"].shape == ("B", 2, 2)


def test_one_changed_byte_is_found_in_every_file(copy):
    for file in sorted(copy.iterdir()):
        content = file.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            spoilt = bytearray(content)
            spoilt[place] ^= 1
            file.write_bytes(spoilt)
            with pytest.raises(ValueError, match=file.name.replace(".", r"\.")):
                Bundle.open(copy)
        file.write_bytes(content[:-1])
        with pytest.raises(ValueError, match=file.name.replace(".", r"\.")):
            Bundle.open(copy, verify=False)
        file.write_bytes(content)
    Bundle.open(copy)


def test_a_missing_file_is_named(copy, tmp_path):
    for name in (WEIGHTS, "score_1.onnx", CARD, MANIFEST):
        aside = tmp_path / "aside"
        (copy / name).rename(aside)
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
            Bundle.open(copy)
        aside.rename(copy / name)
    with pytest.raises(FileNotFoundError, match="lightning export"):
        Bundle.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(schema=1), "schema: found 1, expected 2"),
        (lambda m: m.update(opset=99), "opset: found 99, expected 18 to 23"),
        (lambda m: m.update(precision="fp8"), "precision: found 'fp8', expected one of fp32"),
        (lambda m: m.pop("verification"), "found the fields .*, expected"),
        (lambda m: m["spec"].update(tokens=2), "graphs.encoder: found .*, expected .* from spec"),
        (lambda m: m["spec"].update(history=3), "graphs: found .*, expected .*score_3.* from spec.history"),
        (lambda m: m["spec"].update(horizon=None), "spec.horizon: found None, expected a whole number"),
        (lambda m: m["spec"].update(action_mean=["a"]), "spec.action_mean: found .*, expected a list of numbers"),
        (lambda m: m["spec"].update(action_std=[1.0]), "PlannerSpec.action_std: found float32 of shape"),
        (lambda m: m["spec"].update(surprise=1), "spec: found .*surprise.*, expected exactly the keys"),
        (lambda m: m["graphs"]["encoder"].update(file="../encoder.onnx"), "graphs.encoder: found .*expected"),
        (lambda m: m["files"].update({"../evil": {"sha256": "", "bytes": 1}}), r"files: found the name '\.\./evil'"),
        (lambda m: m["files"].update({"/etc/passwd": {"sha256": "", "bytes": 1}}), "files: found the name '/etc/passw"),
        (
            lambda m: m["files"].update({"more.onnx": {"sha256": "", "bytes": 1}}),
            "files: found .*more.onnx.*, expected",
        ),
        (lambda m: m["files"].update({WEIGHTS: 3}), "files.weights.bin: found 3"),
        (lambda m: m["planner"].update(solver="magic"), "planner.solver: found 'magic'"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(copy, edit, message):
    change(copy, edit)
    with pytest.raises(ValueError, match=f"{MANIFEST}: {message}"):
        assert Bundle.open(copy).planner_config


def test_bounds_without_end_survive():
    from jepakit.planning import PlannerSpec

    spec = PlannerSpec(
        image_size=4,
        history=1,
        frame_skip=1,
        action_dim=2,
        action_mean=np.array([0.1, 1 / 3], np.float32),
        action_std=np.ones(2, np.float32),
        action_low=np.array([-np.inf, -1], np.float32),
        action_high=np.array([1, np.inf], np.float32),
        tokens=1,
        width=2,
        horizon=3,
    )
    again = read_spec(json.loads(json.dumps(plain_spec(spec), allow_nan=False)))
    for name in ("action_mean", "action_low", "action_high"):
        np.testing.assert_array_equal(getattr(again, name), getattr(spec, name))
    assert graphs_of(again) == graphs_of(spec)


def test_calls_that_do_not_fit_are_refused(lewm):
    backend = open_backend(lewm.bundle.folder)
    assert isinstance(backend, OnnxBackend)
    frames = np.zeros((1, 1, 16, 16, 3), np.uint8)
    for bad in (frames[:, :, :8], frames.astype(np.float32), frames[0]):
        with pytest.raises(ValueError, match=r"frames: found .* expected uint8 of shape \(B, T, 16, 16, 3\)"):
            backend.encode(bad)
    good = {
        "history": np.zeros((1, 2, 1, 8), np.float32),
        "past_actions": np.zeros((1, 1, 6), np.float32),
        "candidates": np.zeros((1, 5, 2, 6), np.float32),
        "goal": np.zeros((1, 1, 8), np.float32),
    }
    backend.score(**good)
    bad_values = {
        "history": [np.zeros((1, 3, 1, 8), np.float32), np.zeros((1, 2, 8), np.float32), good["history"] * np.nan],
        "past_actions": [np.zeros((1, 0, 6), np.float32)],
        "candidates": [
            np.zeros((1, 5, 2, 5), np.float32),
            np.zeros((2, 5, 2, 6), np.float32),
            np.zeros((1, 5, 3, 6), np.float32),
            np.zeros((5, 2, 6), np.float32),
            np.zeros((1, 5, 2, 6)),
            np.full((1, 5, 2, 6), np.nan, np.float32),
            np.full((1, 5, 2, 6), np.inf, np.float32),
        ],
        "goal": [np.zeros((1, 2, 8), np.float32), np.full((1, 1, 8), np.nan, np.float32)],
    }
    for name, values in bad_values.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{name}: found"):
                backend.score(**{**good, name: value})


def test_settings_of_the_engine_are_checked(lewm):
    with pytest.raises(ValueError, match=r"provider: 'cuda' is not part of this ONNX Runtime, .*onnxruntime-gpu"):
        OnnxBackend(lewm.bundle, provider="cuda")
    with pytest.raises(ValueError, match="provider: found 'tpu', expected one of cpu"):
        OnnxBackend(lewm.bundle, provider="tpu")
    with pytest.raises(ValueError, match=r"OnnxBackend.threads: found 0, expected at least 1"):
        OnnxBackend(lewm.bundle, threads=0)
    with pytest.raises(ValueError, match="engine: found 'jax', expected 'onnx' or 'tensorrt'"):
        open_backend(lewm.bundle.folder, engine="jax")
