"""Which reader opens what."""

import importlib
import json
import shutil
import sys

import pytest

from jepakit.datamodules.readers import READERS, detect, open_source
from jepakit.datamodules.readers.location import Location
from jepakit.datamodules.store import MANIFEST, EpisodeStore


def test_every_kind_is_recognised_by_what_lies_there(sample, sample_lance, dinowm, lerobot, tiny_store):
    places = {"hdf5": sample, "lance": sample_lance, "dinowm": dinowm[0], "lerobot": lerobot[0], "store": tiny_store}
    assert set(places) == set(READERS)
    for kind, path in places.items():
        assert detect(Location.of(path)) == kind
    assert detect(Location.of(tiny_store / MANIFEST)) == "store"


def test_every_target_can_be_imported():
    for kind in READERS.values():
        module, _, name = kind.target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_hdf5_is_known_by_its_content_where_the_name_says_nothing(sample, tmp_path):
    shutil.copy(sample, tmp_path / "recording")
    assert detect(Location.of(tmp_path / "recording")) == "hdf5"


def test_what_is_unknown_is_refused_with_a_list(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=r"unknown kind of data set; expected a store directory .*LeRobot v3"):
            open_source(path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5: no such data set"):
        open_source(tmp_path / "nothing.h5")


def test_what_is_ambiguous_is_refused_until_said(dinowm):
    folder = dinowm[0]
    (folder / "meta").mkdir()
    (folder / "meta/info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"several kinds of data set \(dinowm, lerobot\); say which with kind"):
        open_source(folder)
    assert len(open_source(folder, kind="dinowm").lengths) == 3
    with pytest.raises(ValueError, match="kind: found 'dino', expected one of store, hdf5"):
        open_source(folder, kind="dino")


def test_a_missing_library_names_the_extra(sample_lance, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ValueError, match=r"a Lance table .* needs the module 'lance'; .*jepakit\[lance\]"):
        open_source(sample_lance)


def test_an_unfinished_store_is_refused(tiny_store, tmp_path):
    shutil.copytree(tiny_store, tmp_path / "copy")
    manifest = tmp_path / "copy" / MANIFEST
    content = json.loads(manifest.read_text()) | {"complete": False}
    del content["sha256"]  # or the change would be the complaint
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"not complete \(it has 30 episodes so far\)"):
        open_source(tmp_path / "copy")
    assert isinstance(open_source(tmp_path / "copy", check=False), EpisodeStore)
