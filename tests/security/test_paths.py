"""Files that name other files of this machine, and configurations from elsewhere that name code, get neither."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from jepakit import cli
from jepakit.datamodules.extracted import store_features
from jepakit.datamodules.readers import open_source
from jepakit.datamodules.readers.location import Location
from jepakit.datamodules.readers.video import Video
from jepakit.datamodules.store import EpisodeStore
from jepakit.planning.evaluation.provenance import without_query

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS / "campaigns"))
sys.path.insert(0, str(TESTS / "datamodules" / "readers"))
from samples import marked_frame, write_video  # noqa: E402
from subjects import SUBJECTS  # noqa: E402
from targets import signed, write_store  # noqa: E402


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "a//b", "", ".."])
def test_nothing_is_joined_that_leads_out(name):
    for root in ("data/set", "https://host/set"):
        with pytest.raises(ValueError, match="expected one of a file below it"):
            Location.of(root) / name


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m["shards"][0].update(name="../elsewhere"), r"found the name '\.\./elsewhere'"),
        (lambda m: m["shards"][0].update(name=".."), r"found the name '\.\.'"),
        (lambda m: m["shards"][0]["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}}), "'/etc/passwd'"),
        (lambda m: m["columns"].update({"../../x": m["columns"]["action"]}), r"found the name '\.\./\.\./x'"),
        (lambda m: m["columns"].update(more=m["columns"]["action"]), "found the files .*expected .*more.npy"),
        (lambda m: m["columns"]["action"].update(shape=[10**9]), "5 rows of 'action' do not fit into its file"),
        (lambda m: m["columns"]["mask"].update(shape=[2**63, 0]), r"columns\.mask: found .*expected at most"),
        (lambda m: m["columns"]["action"].update(dtype="object"), r"columns\.action: found object"),
        (lambda m: m["columns"]["action"].update(dtype="os:system"), r"columns\.action: "),
        (lambda m: m["shards"].append(m["shards"][0]), "found a name twice"),
        (lambda m: m.update(class_path="os.system"), r"found the fields \['class_path'\]"),
    ],
)
def test_a_stores_manifest(tmp_path, edit, said):
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "manifest.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_bytes(signed(json.dumps(content).encode()))
    with pytest.raises(ValueError, match=rf"manifest\.json: .*{said}|manifest\.json: {said}"):
        EpisodeStore(tmp_path / "store")


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot")
    SUBJECTS["lerobot"].make(folder)
    return folder / "lerobot_set"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("data_path", "../../{chunk_index}.parquet", "expected one of a file below it"),
        ("data_path", "/etc/passwd", "expected one of a file below it"),
        ("data_path", "{chunk_index:999999999d}", "data_path: found .*expected a path like"),
        ("data_path", "{chunk_index.__class__}", "data_path: found .*expected a path like"),
        ("fps", 0, "fps: found 0"),
    ],
)
def test_the_description_of_a_lerobot_set(lerobot, name, value, said):
    file = lerobot / "meta/info.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), name: value}))
    try:
        with pytest.raises(ValueError, match=said):
            open_source(lerobot).read("action", np.arange(3))
    finally:
        file.write_text(before)


def lead_out(file, name, other, way):
    """Make ``name`` of an HDF5 file a column of the file ``other``."""
    if way == "link":
        file[name] = h5py.ExternalLink(other.name, "state")
    elif way == "link behind a link":
        file["group/way"] = h5py.ExternalLink(other.name, "state")
        file[name] = h5py.SoftLink("/group/way")
    elif way == "external storage":
        file.create_dataset(name, (12, 3, 1), "f8", external=[(str(other), 0, 288)])
    else:
        layout = h5py.VirtualLayout((12, 3, 1), "f8")
        layout[:] = h5py.VirtualSource(str(other), "state", (12, 3, 1))
        file.create_virtual_dataset(name, layout)


@pytest.fixture
def other(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["state"] = np.ones((12, 3, 1))
    return tmp_path / "other.h5"


@pytest.mark.parametrize("way", ["link", "link behind a link", "external storage", "virtual"])
def test_hdf5_reads_no_other_file(tmp_path, other, way):
    SUBJECTS["hdf5"].make(tmp_path)
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        del file["state"]
        lead_out(file, "state", other, way)
    with pytest.raises(ValueError, match=r"data\.h5: column 'state' lies in another file"):
        open_source(tmp_path / "data.h5")


def test_hdf5_may_lead_to_itself(tmp_path):
    SUBJECTS["hdf5"].make(tmp_path)
    before = open_source(tmp_path / "data.h5").read("state", np.arange(3))
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file.move("state", "group/state")
        file["state"] = h5py.SoftLink("/group/state")
    np.testing.assert_array_equal(open_source(tmp_path / "data.h5").read("state", np.arange(3)), before)


@pytest.mark.parametrize("way", ["external storage", "virtual"])
def test_extracted_features_come_from_no_other_file(tmp_path, other, way):
    write_store(tmp_path / "data")
    with h5py.File(tmp_path / "slots.h5", "w") as file:
        lead_out(file, "episode_0", other, way)
    with pytest.raises(ValueError, match=r"slots\.h5: column 'episode_0' lies in another file"):
        store_features(tmp_path / "slots.h5", EpisodeStore(tmp_path / "data"), tmp_path / "features")
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_video_that_is_a_script_reads_no_other(tmp_path, script):
    write_video(tmp_path / "secret.mp4", [marked_frame(0, step) for step in range(5)])
    assert Video(Location.of(tmp_path / "secret.mp4")).shape == (64, 64, 3)
    (tmp_path / "episode.mp4").write_text(script)
    with pytest.raises(ValueError, match=r"episode\.mp4: not a readable video"):
        Video(Location.of(tmp_path / "episode.mp4"))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/evil.yaml", "memory://evil.yaml", "hf://org/name/evil.yaml"])
def test_the_command_line_fetches_no_configuration(address, capsys):
    assert cli.main(["fit", "-c", address]) == 2
    assert "evil.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["!!python/object/apply:os.mkdir [exploded]", "!!python/name:os.system"])
def test_yaml_builds_plain_values_only(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(f"data: {line}\n")
    for command in (["fit", "-c", "evil.yaml"], ["data", "collect", "-c", "evil.yaml"]):
        assert cli.main(command) != 0
        assert "python/" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_a_password_in_a_url_is_refused_and_not_repeated():
    for url in ("https://me:hunter2@host/data.h5", "s3://key:hunter2@bucket/data", "sftp://me:hunter2@host/data"):
        with pytest.raises(ValueError, match="found a password in the URL") as caught:
            open_source(url)
        assert "hunter2" not in str(caught.value)
    for url in ("s3://bucket/data@2", "github://owner:repository@main/data", "hf://datasets/org/name@main/x.h5"):
        assert str(Location.of(url)) == url


def test_the_published_command_leaves_out_what_signs_a_url():
    signed_url = "--data.data=https://host/data.h5?X-Amz-Signature=hunter2&more=1"
    assert without_query(signed_url) == "--data.data=https://host/data.h5?…"
    assert without_query("--trainer.max_steps=3") == "--trainer.max_steps=3"
