"""Any change to any JSON file from outside: a ``ValueError`` that names the file, or a file of the same form."""

import copy
import io
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepakit.json_files import parse_json
from jepakit.plain import parse
from jepakit.planning.serving import ProtocolError, pack_message, read_message
from jepakit.zoo.config import plain_config
from jepakit.zoo.registry import REGISTRY

sys.path.insert(0, str(Path(__file__).parent.parent / "campaigns"))
from subjects import SUBJECTS
from targets import Manifests

LIMITS = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, 2**63, "../../etc/passwd", "/etc/passwd", "object", "os:system", "{0.__doc__}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def changed(draw, values):
    """``values`` with one entry replaced, taken out or added, at any depth."""
    values = copy.deepcopy(values)
    place = values
    while True:
        inner = [key for key, value in items(place) if isinstance(value, (dict, list)) and value]
        if not inner or draw(st.integers(0, 3)) == 0:
            break
        place = place[draw(st.sampled_from(inner))]
    keys = [key for key, _ in items(place)]
    key, what = draw(st.sampled_from(keys)), draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if what == "remove":
        del place[key]
    elif what == "replace":
        place[key] = draw(JSON)
    elif isinstance(place, dict):
        place[draw(st.text(max_size=8) | st.just("class_path"))] = draw(JSON)
    else:
        place.append(draw(JSON))
    return values


def items(values):
    return list(values.items() if isinstance(values, dict) else enumerate(values))


@pytest.mark.parametrize("family", REGISTRY)
def test_configs(family):
    cls = REGISTRY[family].config_class()
    plain = json.loads(json.dumps(plain_config(cls.nano() if hasattr(cls, "nano") else cls())))
    assert plain_config(parse(cls, plain, where="config")) == plain_config(parse(cls, plain, where="config"))

    @settings(LIMITS, max_examples=60)
    @given(changed(plain))
    def check(values):
        try:
            parsed = parse(cls, values, where="config")
        except ValueError:
            pass
        else:
            again = json.loads(json.dumps(plain_config(parsed)))
            assert parse(cls, again, where="config") == parsed
            assert set(values) <= set(again)  # nothing was left out

    check()


def test_manifests_whose_hash_was_made_to_fit():
    """Of stores, bundles and task lists; the target of the fuzzing raises for anything but our errors."""
    target = Manifests()
    seeds = target.seeds

    @settings(LIMITS, max_examples=200)
    @given(st.sampled_from(seeds).flatmap(lambda seed: st.tuples(st.just(seed[:1]), changed(json.loads(seed[1:])))))
    def check(made):
        target(made[0] + json.dumps(made[1]).encode())

    check()
    target.close()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("results", f"{name}.json") for name in ("evaluation", "probe", "training")),
        *(("official", "config.json"), ("weights", "weights/config.json"), ("lerobot", "lerobot_set/meta/info.json")),
    ],
)
def test_files_without_a_hash(name, file, tmp_path):
    subject = SUBJECTS[name]
    subject.make(tmp_path)
    values = json.loads((tmp_path / file).read_text())
    values.pop("config_sha256", None)

    @settings(LIMITS, max_examples=12)
    @given(changed(values))
    def check(changed_values):
        (tmp_path / file).write_text(json.dumps(changed_values))
        try:
            subject.read(tmp_path)
        except (ValueError, FileNotFoundError) as error:
            if str(tmp_path) not in str(error):
                raise AssertionError(f"names no file: {error!r}") from error

    check()


@settings(LIMITS, max_examples=200)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(content):
    try:
        assert isinstance(parse_json(content, where="file.json"), dict)
    except ValueError as error:
        if not str(error).startswith("file.json: "):
            raise AssertionError(f"names no file: {error!r}") from error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "recursion"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"\xff\xfe{}", "not readable as JSON"),
        (b"7", "found int, expected a JSON object"),
    ],
)
def test_json_that_is_a_trap(content, said):
    with pytest.raises(ValueError, match=rf"file\.json: .*{said}"):
        parse_json(content, where="file.json")


@settings(LIMITS, max_examples=100)
@given(st.binary(max_size=64), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3), st.binary(max_size=20))
def test_messages_to_the_planner(noise, header, payload):
    stream = io.BytesIO(pack_message(header, payload) + noise)
    assert read_message(stream) == (header, payload)
    while True:
        try:
            if read_message(stream) is None:
                break
        except ProtocolError:
            break


def test_numbers_beyond_floating_point_are_refused_in_configs():
    cls = REGISTRY["lewm"].config_class()
    with pytest.raises(ValueError, match=r"config\.dropout: found 1000000"):
        parse(cls, {"dropout": 10**400}, where="config")
    assert math.isfinite(cls().dropout)
