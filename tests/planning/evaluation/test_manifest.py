import json

import numpy as np
import pytest

from jepakit.planning.evaluation import Manifest, draw_tasks


def draw(states, **changes):
    options = {"count": 20, "offset": 10, "seed": 0, "environment": "Line", "data_fingerprint": "abc", **changes}
    return draw_tasks(states, lambda state, goal: abs(state[0] - goal[0]) < 1.0, **options)


@pytest.fixture
def states():
    """Three episodes on a line: 3 moves, 8 rests, 5 is too short."""
    moving = np.arange(40, dtype=np.float64)[:, None]
    return {8: np.full((30, 1), 4.0), 3: moving, 5: moving[:10]}


def test_tasks_come_from_the_data_and_solved_starts_are_excluded(states):
    manifest = draw(states, count=30)
    assert [task.id for task in manifest.tasks] == list(range(30))
    assert {task.episode for task in manifest.tasks} == {3}
    # All 30 pairs of the moving episode are needed, so none is drawn twice; the resting episode has 20 solved ones.
    assert sorted(task.start_step for task in manifest.tasks) == list(range(30))
    assert 0 < manifest.excluded <= 20
    for task in manifest.tasks:
        assert task.goal_step == task.start_step + 10
        assert task.state == (float(task.start_step),)
        assert task.goal_state == (float(task.goal_step),)


def test_goals_that_no_demonstration_ends_in(states, tmp_path):
    manifest = draw(states, count=20, sample=lambda rng: rng.uniform(100.0, 200.0, size=1))
    goals = [task.goal_state[0] for task in manifest.tasks]
    assert all(100.0 <= goal <= 200.0 for goal in goals)
    assert len(set(goals)) == 20
    assert all(task.goal_step is None for task in manifest.tasks)
    assert {task.episode for task in manifest.tasks} == {3, 8}  # a rest is no goal any more
    assert manifest == draw(states, count=20, sample=lambda rng: rng.uniform(100.0, 200.0, size=1))
    manifest.save(tmp_path / "tasks.json")
    assert Manifest.load(tmp_path / "tasks.json") == manifest


def test_the_draw_depends_on_the_seed_only(states):
    reordered = dict(reversed(states.items()))
    assert draw(states) == draw(reordered)
    assert draw(states).sha256 == draw(reordered).sha256
    assert draw(states).tasks != draw(states, seed=1).tasks


def test_the_draw_covers_the_episodes_in_proportion_to_their_starts():
    rng = np.random.default_rng(0)
    states = {0: 100 * rng.normal(size=(110, 1)), 1: 100 * rng.normal(size=(310, 1))}
    episodes = [task.episode for seed in range(5) for task in draw(states, seed=seed, count=100).tasks]
    assert np.mean(episodes) == pytest.approx(0.75, abs=0.05)


def test_too_few_pairs_are_an_error(states):
    with pytest.raises(ValueError, match=r"tasks: found 30 unsolved .* 10 steps apart in 3 test episodes, expected 31"):
        draw(states, count=31)


def test_saving_and_loading_returns_the_same_list_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    manifest = draw({0: np.cumsum(rng.uniform(0.5, 1.5, size=(40, 3)), axis=0)})
    path = tmp_path / "new" / "tasks.json"
    manifest.save(path)
    loaded = Manifest.load(path)
    assert loaded == manifest
    assert loaded.sha256 == manifest.sha256 == json.loads(path.read_text())["sha256"]
    assert [file.name for file in path.parent.iterdir()] == ["tasks.json"]


@pytest.mark.parametrize("field", ["seed", "excluded", "split", "tasks"])
def test_a_changed_list_is_refused(states, tmp_path, field):
    path = tmp_path / "tasks.json"
    draw(states).save(path)
    content = json.loads(path.read_text())
    if field == "tasks":
        content["tasks"][4]["state"][0] += 1e-9
    else:
        content[field] = {"split": "train"}.get(field, 99)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tasks.json: sha256: found [0-9a-f]{64}, expected [0-9a-f]{64}: .* changed"):
        Manifest.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "tasks.json: not readable as JSON"),
        ("[]", "tasks.json: found list, expected a JSON object"),
        ('{"schema": 2}', "tasks.json: schema: found 2, expected 1"),
        ('{"schema": 1}', "tasks.json: sha256: found"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "tasks.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Manifest.load(path)


def test_unknown_and_missing_fields_are_refused(states, tmp_path):
    from jepakit.planning.evaluation.manifest import _digest

    path = tmp_path / "tasks.json"
    draw(states).save(path)
    content = json.loads(path.read_text())
    for change in ({"note": "hello"}, {"tasks": [{**content["tasks"][0], "weight": 1}]}):
        changed = {**content, **change}
        body = {key: value for key, value in changed.items() if key not in ("schema", "sha256")}
        path.write_text(json.dumps({**changed, "sha256": _digest(body)}))
        with pytest.raises(ValueError, match=r"tasks.json: (manifest|tasks\[0\]): found fields"):
            Manifest.load(path)
