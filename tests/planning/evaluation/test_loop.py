import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepakit.planning import MPCConfig, RandomPolicy, StayPolicy
from jepakit.planning.evaluation import run_policy

MPC = MPCConfig(horizon=3, execute_blocks=1, warm_start=True)


@pytest.fixture(scope="module")
def manifest(toy):
    return toy.make_manifest(count=12)


def outcomes(policy, toy, tasks, **options):
    return run_policy(policy, toy.PointMass, tasks, seed=3, budget=50, **options).outcomes


def test_the_planner_solves_what_random_actions_do_not(toy, manifest):
    assert manifest.excluded > 0
    planned = outcomes(toy.make_mpc(), toy, manifest.tasks)
    assert all(outcome.success for outcome in planned)
    assert all(outcome.final_distance < 1.0 and 1 <= outcome.steps <= 50 for outcome in planned)
    random = outcomes(RandomPolicy.uniform([-1, -1], [1, 1]), toy, manifest.tasks)
    assert sum(outcome.success for outcome in random) <= 3
    stay = outcomes(StayPolicy(2), toy, manifest.tasks)
    assert not any(outcome.success for outcome in stay)
    assert all(outcome.steps is None for outcome in stay)


def test_jerk_is_the_second_difference_of_the_actions(toy, manifest):
    class Alternating(StayPolicy):
        def reset(self, assignments, budget):
            self.step = 0

        def act(self, views, active):
            self.step += 1
            return np.tile(np.float32([0.3, 0.4]) * (-1) ** self.step, (len(active), 1))

    assert {outcome.jerk for outcome in outcomes(StayPolicy(2), toy, manifest.tasks)} == {0.0}
    for outcome in outcomes(Alternating(2), toy, manifest.tasks):
        assert outcome.jerk == pytest.approx(4 * 0.5)
    quick = run_policy(Alternating(2), toy.PointMass, manifest.tasks, seed=3, budget=2)
    assert {outcome.jerk for outcome in quick.outcomes} == {None}


@pytest.mark.parametrize("make", ["mpc", "random"])
def test_outcomes_do_not_depend_on_the_batch_or_on_the_other_tasks(toy, manifest, make):
    def policy():
        return toy.make_mpc(config=MPC, iterations=3) if make == "mpc" else RandomPolicy.uniform([-1, -1], [1, 1])

    whole = outcomes(policy(), toy, manifest.tasks)
    assert len({outcome.final_distance for outcome in whole}) == len(whole)
    for batch_size in (1, 5):
        assert outcomes(policy(), toy, manifest.tasks, batch_size=batch_size) == whole
    assert outcomes(policy(), toy, manifest.tasks[7:9]) == whole[7:9]
    assert outcomes(policy(), toy, manifest.tasks[::-1]) == whole[::-1]


def test_outcomes_are_the_same_in_several_processes(toy, manifest, tmp_path):
    path = tmp_path / "tasks.json"
    manifest.save(path)
    code = (
        "import dataclasses, json, sys; sys.path.insert(0, sys.argv[1]); import point_mass as toy\n"
        "from pathlib import Path\n"
        "from jepakit.planning import MPCConfig\n"
        "from jepakit.planning.evaluation import Manifest, run_policy\n"
        "tasks = Manifest.load(Path(sys.argv[2])).tasks[int(sys.argv[3]) :: 2]\n"
        "config = MPCConfig(horizon=3, execute_blocks=1, warm_start=True)\n"
        "run = run_policy(toy.make_mpc(config=config, iterations=3), toy.PointMass, tasks, seed=3, budget=50)\n"
        "print(json.dumps([dataclasses.asdict(outcome) for outcome in run.outcomes]))\n"
    )
    folder = Path(toy.__file__).parent
    workers = [
        subprocess.Popen([sys.executable, "-c", code, folder, path, str(part)], stdout=subprocess.PIPE, text=True)
        for part in (0, 1)
    ]
    parts = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    together = [
        dataclasses.asdict(outcome) for outcome in outcomes(toy.make_mpc(config=MPC, iterations=3), toy, manifest.tasks)
    ]
    assert parts == [together[0::2], together[1::2]]


def test_the_seed_changes_the_randomness(toy, manifest):
    policy = RandomPolicy.uniform([-1, -1], [1, 1])
    runs = [run_policy(policy, toy.PointMass, manifest.tasks, seed=seed, budget=50).outcomes for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_success_counts_at_any_step_and_ends_the_task(toy, manifest):
    class Overshoot:
        """Runs through the goal and on: only a criterion that is checked at every step sees the success."""

        def reset(self, assignments, budget):
            self.directions = [np.sign(each.goal_state - each.state) for each in assignments]
            self.seen = []

        def act(self, views, active):
            self.seen.append(list(active))
            return np.stack([self.directions[index] for index in active])

    task = dataclasses.replace(manifest.tasks[0], id=0, state=(0.0, 0.0), goal_state=(4.0, 4.0))
    far = dataclasses.replace(task, id=1, goal_state=(40.0, 40.0))
    policy = Overshoot()
    near, missed = outcomes(policy, toy, [task, far])
    # 0.4 per step on both axes: after 9 steps at (3.6, 3.6), 0.57 from the goal; after 8 still 1.13 away.
    assert (near.success, near.steps) == (True, 9)
    assert (missed.success, missed.steps) == (False, None)
    assert near.final_distance == pytest.approx(0.4 * np.sqrt(2))
    assert missed.final_distance == pytest.approx(20 * np.sqrt(2))
    assert policy.seen == 9 * [[0, 1]] + 41 * [[1]]


def test_recordings_show_every_step_of_the_tasks_asked_for(toy, manifest):
    run = run_policy(toy.make_mpc(), toy.PointMass, manifest.tasks[:4], seed=3, budget=50, record={1, 3})
    assert [recording.task for recording in run.recordings] == [1, 3]
    for recording in run.recordings:
        task, outcome = manifest.tasks[recording.task], run.outcomes[recording.task]
        assert len(recording.frames) == outcome.steps + 1
        world = toy.PointMass()
        np.testing.assert_array_equal(recording.frames[0], world.picture(task.state))
        np.testing.assert_array_equal(recording.goal, world.picture(task.goal_state))
        last = recording.frames[-1].reshape(-1)[:8].view(np.float32)
        assert world.distance(last, task.goal_state) == pytest.approx(outcome.final_distance, abs=1e-6)


def test_progress_ends_at_the_total_even_when_tasks_end_early(toy, manifest):
    seen = []
    outcomes(toy.make_mpc(), toy, manifest.tasks, batch_size=5, on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (150, 150)
    assert seen == sorted(seen)


def test_a_task_that_is_solved_from_the_start_is_refused(toy, manifest):
    solved = dataclasses.replace(manifest.tasks[0], goal_state=manifest.tasks[0].state)
    with pytest.raises(ValueError, match=r"task \d+: found a start at distance 0.000 .* expected at least 1"):
        outcomes(StayPolicy(2), toy, [solved])


def test_actions_that_are_not_numbers_are_refused(toy, manifest):
    class Broken(StayPolicy):
        def act(self, views, active):
            return np.full((len(active), 2), np.nan, np.float32)

    with pytest.raises(ValueError, match=r"task 0: found action \[nan, nan\], expected finite numbers"):
        outcomes(Broken(2), toy, manifest.tasks[:1])
