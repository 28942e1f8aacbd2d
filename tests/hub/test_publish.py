"""Publishing and fetching with the real client, against a Hub on the loopback interface."""

import json
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jepakit.zoo
from jepakit.export import Bundle
from jepakit.export.exporter import export_bundle
from jepakit.hub import BUILTIN
from jepakit.planning import MPCConfig, PlannerConfig, RandomShootingConfig
from jepakit.zoo import LeWMModel, load_model, save_pretrained
from jepakit.zoo.controller.config import ControllerConfig
from jepakit.zoo.controller.model import ControllerModel
from jepakit.zoo.files import fingerprint
from jepakit.zoo.publish import publish
from jepakit.zoo.vjepa.model import VJEPAModel

NAME = "org/lewm-test"
PUBLISH = """
from jepakit.zoo.publish import publish
found = publish({weights!r}, "org/lewm-test", private={private}, revision={revision!r})
print("json: " + json.dumps({{"url": found.url, "files": found.files}}))
"""
LOAD = """
from jepakit.zoo import load_model
from jepakit.zoo.files import fingerprint
print("json: " + json.dumps(fingerprint(load_model({source!r}, revision={revision!r}))))
"""


WRITE = """
from pathlib import Path
try:
    Path({folder!r}, "new").write_text("")
    print('json: "written"')
except PermissionError:
    print('json: "refused"')
"""


def sent(weights, *, private=False, revision=None):
    return PUBLISH.format(weights=str(weights), private=private, revision=revision)


def loaded(source=NAME, revision=None):
    return LOAD.format(source=source, revision=revision)


def test_what_is_published_loads_bit_by_bit(hub, client, weights):
    found = client(sent(weights))
    assert set(found["files"]) == {"README.md", "config.json", "model.safetensors"}
    repository = hub.repositories[NAME]
    assert len(repository.commits) == 2  # the empty one, and one with all files
    assert repository.commits[-1][1]["model.safetensors"] == (weights / "model.safetensors").read_bytes()
    assert client(loaded(), token=False) == fingerprint(load_model(weights))
    card = repository.commits[-1][1]["README.md"].decode()
    assert "Not evaluated." in card
    assert "pipeline_tag: robotics" in card


def test_two_processes_fetch_the_same_at_once(hub, client, weights, tmp_path):
    client(sent(weights))
    hub.meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: client(loaded(), home="shared"), range(2)))
    assert found == [fingerprint(load_model(weights))] * 2
    assert not list((tmp_path / "shared").rglob("*.incomplete"))


def test_publishing_again_commits_changes_only(hub, client, weights):
    client(sent(weights), sent(weights))
    repository = hub.repositories[NAME]
    assert len(repository.commits) == 2
    model = load_model(weights)
    model.action_mean.add_(1.0)
    save_pretrained(model, weights)
    latest = client(sent(weights), loaded())[1]
    assert len(repository.commits) == 3
    old, new = client(*(loaded(revision=commit[0]) for commit in repository.commits[1:]))
    assert new == latest == fingerprint(model) != old  # exact commits stay what they were


def test_new_weights_do_not_keep_the_figures_of_old_ones(hub, client, weights):
    measured = evaluation_of(fingerprint(load_model(weights)))
    (weights.parent / "evaluation").mkdir()
    (weights.parent / "evaluation" / "evaluation.json").write_text(json.dumps(measured))
    shutil.copy(Path(jepakit.zoo.__file__).parent / "builtin" / "lewm-tworoom-nano" / "training.json", weights)
    client(sent(weights), sent(weights))
    commits = hub.repositories[NAME].commits
    assert len(commits) == 2
    assert {"evaluation.json", "training.json"} <= set(commits[-1][1])
    model = load_model(weights)
    model.action_mean.add_(1.0)
    save_pretrained(model, weights)
    (weights / "training.json").unlink()
    client(sent(weights))
    assert set(commits[-1][1]) == {"README.md", "config.json", "model.safetensors"}


def test_a_branch_of_its_own(hub, client, weights):
    client(sent(weights))
    model = load_model(weights)
    model.action_mean.add_(1.0)
    save_pretrained(model, weights)
    _, trial, main = client(sent(weights, revision="trial"), loaded(revision="trial"), loaded())
    assert trial == fingerprint(model) != main
    assert "hub:org/lewm-test at 'nowhere': " in client(loaded(revision="nowhere"), fails=True)


def test_private_and_unknown_repositories(hub, client, weights):
    found = client(sent(weights, private=True), loaded())[1]
    assert hub.repositories[NAME].private
    assert found == fingerprint(load_model(weights))
    for source, token in ((NAME, False), ("org/other", True)):
        message = client(loaded(source), token=token, fails=True, home="other")
        assert f"hub:{source}: no such repository, or a private one; check the name, or log in" in message


def test_an_interrupted_upload_shows_nothing(hub, client, weights):
    hub.faults["commit"] = 100
    client(sent(weights), fails=True)
    assert hub.repositories[NAME].commits[-1][1] == {}
    hub.faults.clear()
    assert client(sent(weights), loaded())[1] == fingerprint(load_model(weights))


def test_an_interrupted_download_leaves_nothing_half(hub, client, weights):
    client(sent(weights))
    hub.faults["download"] = 1  # the first file breaks off halfway
    assert client(loaded()) == fingerprint(load_model(weights))  # the client asks for the rest by itself
    assert hub.faults["download"] == 0
    hub.faults["download"] = 1000  # and if it never comes
    client(loaded(), fails=True, home="other")
    hub.faults.clear()
    assert client(loaded(), home="other") == fingerprint(load_model(weights))


def test_without_a_network_the_cache_is_enough(hub, client, weights):
    expected = client(sent(weights), loaded())[1]
    assert client(loaded(), offline=True) == expected
    hub.shutdown()
    hub.server_close()
    assert client(loaded()) == expected  # nobody answers
    message = client(loaded(), fails=True, home="empty", offline=True)
    assert "hub:org/lewm-test: the Hub cannot be reached and nothing is in the cache" in message


def test_a_read_only_cache_is_read(hub, client, weights, tmp_path):
    expected = client(sent(weights), loaded())[1]
    folders = [path for path in (tmp_path / "home").rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert client(loaded(), WRITE.format(folder=str(folders[0])), humble=True) == [expected, "refused"]
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)


def tamper(hub, name, content):
    """Change a published file behind the client's back."""
    repository = hub.repositories[NAME]
    repository.commit("main", {**repository.commits[-1][1], name: content})


def unsigned(content, **changes):
    """A changed config without the hash that would tell."""
    values = {key: value for key, value in json.loads(content).items() if key != "config_sha256"}
    return json.dumps({**values, **changes}).encode()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", lambda old: old[:-1] + b"!", "sha256: found"),
        ("model.safetensors", lambda old: (2**40).to_bytes(8, "little") + old[8:], "not a complete safetensors file"),
        ("config.json", lambda old: old.replace(b'"history"', b'"class_path"'), "config_sha256: does not fit the file"),
        ("config.json", lambda old: unsigned(old, model="os.system"), "model: found 'os.system', expected one"),
        ("config.json", lambda old: unsigned(old, config={"class_path": "os.system"}), "unknown key 'class_path'"),
    ],
)
def test_what_was_tampered_with_is_refused(hub, client, weights, name, change, message):
    client(sent(weights))
    tamper(hub, name, change(hub.repositories[NAME].commits[-1][1][name]))
    assert message in client(loaded(), fails=True)


def test_names_that_lead_elsewhere_are_not_followed(hub, client, weights, tmp_path):
    client(sent(weights))
    tamper(hub, "../../../../escaped.txt", b"gotcha")
    tamper(hub, "code.py", b"raise SystemExit('code from the Hub was run')")
    assert client(loaded()) == fingerprint(load_model(weights))
    assert not [path for path in tmp_path.rglob("*") if path.name in ("escaped.txt", "code.py")]


PLAN = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lightning", "safetensors", "transformers"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
from jepakit.planning import Planner
planner = Planner.from_pretrained("org/lewm-test")
frames = np.zeros((1, 1, 16, 16, 3), np.uint8)
plan = planner.plan(
    planner.observe(frames), planner.encode_goal(frames[:, 0]), horizon=1, rngs=[np.random.default_rng(0)]
)
print("json: " + json.dumps([planner.solver.describe()["name"], list(plan.actions.shape)]))
"""


def test_a_robot_fetches_the_bundle_alone(hub, client, weights, tmp_path):
    planner = PlannerConfig(
        solver="random_shooting",
        random_shooting=RandomShootingConfig(samples=4),
        mpc=MPCConfig(horizon=1, execute_blocks=1),
    )
    bundle = export_bundle(load_model(weights), tmp_path / "bundle", horizon=1, planner=planner)
    code = sent(weights).replace("private=", f"bundle=__import__('pathlib').Path({str(bundle.folder)!r}), private=")
    (bundle.folder / "engines").mkdir()
    (bundle.folder / "engines" / "score_1.engine").write_bytes(b"native code")
    (bundle.folder / "notes.txt").write_text("mine")
    files = client(code)["files"]
    inside = {"manifest.json", "MODEL_CARD.md", "encoder.onnx", "score_1.onnx", "score_2.onnx", "weights.bin"}
    assert {name for name in files if name.startswith("bundle/")} == {f"bundle/{name}" for name in inside}
    hub.requests.clear()
    assert client(PLAN, token=False, home="robot") == ["random_shooting", [1, 1, 4]]
    fetched = {path for verb, path in hub.requests if "/resolve/" in path}
    assert fetched
    assert all("/bundle/" in path for path in fetched)
    assert Bundle.from_pretrained(tmp_path / "bundle").spec.image_size == 16
    assert "Bundle.from_pretrained" in hub.repositories[NAME].commits[-1][1]["README.md"].decode()
    content = hub.repositories[NAME].commits[-1][1]["bundle/weights.bin"]
    tamper(hub, "bundle/weights.bin", content[:-1] + bytes([content[-1] ^ 1]))
    assert "weights.bin" in client(PLAN, token=False, fails=True, home="robot")
    client(sent(weights))  # without a bundle: the old one goes
    assert not [name for name in hub.repositories[NAME].commits[-1][1] if name.startswith("bundle/")]


FIT = """
import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from jepakit.callbacks import Publish
from jepakit.datamodules import TwoRoom
from jepakit.datamodules.base import Generate
from jepakit.zoo import LeWM
from jepakit.zoo.files import fingerprint

class Spoil(L.Callback):  # after the first epoch, which is therefore the best
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch:
            module.model.predictor.requires_grad_(False)
            for parameter in module.model.predictor.parameters():
                parameter.add_(10.0)

    def on_validation_epoch_end(self, trainer, module):
        if not trainer.sanity_checking and trainer.current_epoch == 0:
            self.best = fingerprint(module.model)

L.seed_everything(0)
spoil = Spoil()
folder = {folder!r}
data = TwoRoom(generate=Generate(root=folder + "/data", episodes=12, steps=30, workers=1), image_size=16, batch_size=4)
trainer = L.Trainer(
    max_epochs=2, limit_train_batches=2, limit_val_batches=1, default_root_dir=folder, logger=False,
    accelerator="cpu", enable_progress_bar=False,
    callbacks=[spoil, Publish("org/lewm-test"), ModelCheckpoint(folder + "/best", monitor="val/loss")],
)
trainer.fit(LeWM({{**{lewm!r}, "frame_skip": 5, "history": 3, "directions": 8}}), datamodule=data)
print("json: " + json.dumps(spoil.best))
"""


def test_the_best_checkpoint_of_a_run_is_published(hub, client, lewm, tmp_path):
    code = FIT.format(folder=str(tmp_path), lewm=lewm)
    record = tmp_path / "weights" / "training.json"  # as `lightning fit` leaves it
    record.parent.mkdir()
    shutil.copyfile(BUILTIN / "lewm-tworoom-nano" / "training.json", record)
    best, found = client(code, loaded())
    assert found == best
    assert json.loads(hub.repositories[NAME].commits[-1][1]["training.json"])["steps"] == 2  # the first epoch's
    assert hub.repositories[NAME].private
    hub.repositories.clear()  # or there would be nothing to send
    hub.faults["commit"] = 100
    message = client(code, fails=True)
    assert "org/lewm-test was not published" in message
    assert f"lightning publish -c … --weights {tmp_path / 'published'}" in message


def evaluation_of(weights):
    return {
        "settings": {"fingerprint": weights},
        "environment": "TwoRoom",
        "tasks": {"sha256": "ab" * 32, "split": "test", "offset": 25, "count": 50},
        "budget": 50,
        "machine": {"system": "Linux", "architecture": "x86_64", "cpus": 2},
        "policies": {
            "lewm": {
                **{"rate": 0.94, "interval95": [0.838, 0.979], "latency_ms": {"p50": 123.4}},
                "settings": {
                    **{"solver": {"name": "cem", "samples": 128}, "horizon": 5, "execute_blocks": 2},
                    **{"arrival": 25, "warm_start": True, "proposals": {"offset": 25}},
                },
            },
            "random": {"rate": 0.06, "interval95": [0.021, 0.162], "latency_ms": None},
        },
    }


def test_a_dry_run_sends_nothing(weights, tmp_path):
    (weights.parent / "evaluation").mkdir()
    mine = fingerprint(load_model(weights))
    evaluation = evaluation_of(mine)
    (weights.parent / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    (weights.parent / "probes").mkdir()
    measured = {"measured": [{"step": 9, "weights": mine, "values": {"shuffle_gap": 83.04, "ranking_random": None}}]}
    (weights.parent / "probes" / "fidelity.json").write_text(json.dumps(measured))
    found = publish(weights, NAME, dry_run=tmp_path / "dry")
    assert found.url is None
    assert set(found.files) == {"README.md", "config.json", "evaluation.json", "model.safetensors"}
    assert load_model(tmp_path / "dry").config == load_model(weights).config
    card = (tmp_path / "dry" / "README.md").read_text()
    assert "| lewm | 94.0% | 83.8% – 97.9% | 123 |" in card
    assert "Planner: cem (samples 128), horizon 5 blocks, 2 of them executed, to be at the goal after 25 steps," in card
    assert "starting from the last plan, with a controller's proposals." in card
    assert "| fidelity/shuffle_gap | 83 |\n| fidelity/ranking_random | undefined |\n" in card
    assert "value: 0.94" in card
    assert "Not recorded" in card
    with pytest.raises(FileExistsError, match=r"dry_run: .* exists already; delete it, or choose another"):
        publish(weights, NAME, dry_run=tmp_path / "dry")


def test_what_was_measured_on_other_weights_is_left_out(weights, tmp_path):
    other = {"measured": [{"step": 9, "weights": "other", "values": {"shuffle_gap": 83.04}}]}
    for name, content in (("evaluation", evaluation_of("other")), ("probes", other)):
        (weights.parent / name).mkdir()
        (weights.parent / name / f"{name}.json").write_text(json.dumps(content))
    found = publish(weights, NAME, dry_run=tmp_path / "dry")
    assert "evaluation.json" not in found.files
    card = (tmp_path / "dry" / "README.md").read_text()
    assert "Not evaluated." in card
    assert "shuffle_gap" not in card


def test_a_bundle_of_other_weights_is_not_published(weights, lewm, tmp_path):
    other = LeWMModel({**lewm, "frame_skip": 2, "history": 1})
    bundle = export_bundle(other, tmp_path / "bundle", horizon=1)
    with pytest.raises(ValueError, match=r"manifest\.json: model\.weights: found .*, expected those to be published"):
        publish(weights, NAME, bundle=bundle.folder, dry_run=tmp_path / "dry")
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        publish(weights, NAME, bundle=tmp_path, dry_run=tmp_path / "dry")
    assert not (tmp_path / "dry").exists()


def test_the_folder_may_be_this_one(weights, tmp_path, monkeypatch):
    (weights.parent / "evaluation").mkdir()
    evaluation = evaluation_of(fingerprint(load_model(weights)))
    evaluation["settings"]["held_out"] = "not known (mine)"
    (weights.parent / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    monkeypatch.chdir(weights)
    assert "evaluation.json" in publish(".", NAME, dry_run=tmp_path / "dry").files
    assert "Kept from training: not known (mine)." in (tmp_path / "dry" / "README.md").read_text()


def test_a_controller_is_not_published_as_a_world_model(tmp_path):
    controller = ControllerModel(ControllerConfig(frame_skip=2, steps=4, max_offset=10, width=16))
    with pytest.raises(ValueError, match="found a controller, expected a world model"):
        publish(save_pretrained(controller, tmp_path / "weights"), NAME, dry_run=tmp_path / "dry")


def test_what_does_not_load_is_not_published(weights, tmp_path):
    os.truncate(weights / "model.safetensors", 1000)
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        publish(weights, NAME, dry_run=tmp_path / "dry")
    assert not (tmp_path / "dry").exists()


def test_a_model_without_a_trained_predictor_is_not_published(tmp_path):
    sizes = {"image_size": 16, "patch_size": 8, "vit_width": 12, "vit_depth": 1, "vit_heads": 3, "vit_mlp": 16}
    model = VJEPAModel({**sizes, "predictor_width": 8, "predictor_depth": 1, "predictor_mlp": 16})
    with pytest.raises(ValueError, match="found a vjepa whose training ended with its encoder's steps"):
        publish(save_pretrained(model, tmp_path / "weights"), NAME, dry_run=tmp_path / "dry")
    assert not (tmp_path / "dry").exists()
    model.step_done(model.config.encoder_steps)
    publish(save_pretrained(model, tmp_path / "weights"), NAME, dry_run=tmp_path / "dry")


def test_the_token_is_nowhere_but_in_the_requests(hub, client, weights, lewm, tmp_path, capfd):
    client(FIT.format(folder=str(tmp_path), lewm=lewm), loaded())
    hub.faults["commit"] = 100
    said = client(sent(weights, revision="other"), fails=True)
    said += "".join(capfd.readouterr())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "README.md"} <= {path.name for path in written} | set(hub.repositories[NAME].commits[-1][1])
    assert not [path for path in written if hub.token.encode() in path.read_bytes()]
    assert not [
        name for _, files in hub.repositories[NAME].commits for name, c in files.items() if hub.token.encode() in c
    ]
    assert hub.token not in said


def test_a_repository_cannot_write_elsewhere(hub, client, weights, tmp_path):
    client(sent(weights))
    content = hub.repositories[NAME].commits[-1][1]
    hub.repositories[NAME].commit("main", {**content, "bundle/../../../../../../../escaped": b"here"})
    fetch = 'from jepakit.hub import fetch\nprint(fetch("org/lewm-test", ["bundle/*"]))'
    assert "hub:org/lewm-test: Invalid filename" in client(fetch, fails=True, home="a/b/c/d/home")
    assert not list(tmp_path.rglob("escaped"))
    assert client(loaded()) == fingerprint(load_model(weights))  # which fetches its two files only
