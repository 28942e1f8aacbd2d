import numpy as np
import pytest

from jepakit.planning import MPCConfig
from jepakit.planning.evaluation.loop import assign


def begin(policy, toy, starts, *, goal=(6.0, 5.0), budget=50):
    worlds = [toy.PointMass() for _ in starts]
    for world, start in zip(worlds, starts, strict=True):
        world.reset(options={"state": start})
    assignments = [toy.assign(world, goal, seed) for seed, world in enumerate(worlds)]
    policy.reset(assignments, budget)
    return worlds


def play(policy, worlds, steps, active=None):
    """Act and record positions (before each action) and actions."""
    active = range(len(worlds)) if active is None else active
    positions, actions = [], []
    for _ in range(steps):
        positions.append([worlds[index].state for index in active])
        actions.append(policy.act([worlds[index] for index in active], active))
        for index, action in zip(active, actions[-1], strict=True):
            worlds[index].advance(action)
    return np.array(positions), np.array(actions)


@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("execute", [1, 2, 5])
def test_the_model_sees_real_frames_and_executed_blocks(toy, execute, history):
    policy = toy.make_mpc(config=MPCConfig(horizon=5, execute_blocks=execute), iterations=2, history=history)
    worlds = begin(policy, toy, [(0.0, 0.0), (1.0, 2.0)])
    positions, actions = play(policy, worlds, 50)
    boundaries = positions[:: toy.SKIP].astype(np.float32)
    blocks = actions.reshape(10, toy.SKIP, 2, 2).swapaxes(1, 2).reshape(10, 2, 10)

    queries = policy.planner.backend.scored[:: policy.planner.solver.config.iterations]
    assert len(queries) == 10 // execute
    for query, (latents, past_actions, _, goal) in enumerate(queries):
        now = query * execute
        first = max(0, now - history + 1)
        np.testing.assert_array_equal(latents[:, :, 0], boundaries[first : now + 1].swapaxes(0, 1))
        np.testing.assert_array_equal(past_actions, blocks[first:now].swapaxes(0, 1))
        np.testing.assert_array_equal(goal[:, 0], np.float32([[6.0, 5.0]] * 2))


def test_frames_and_goals_are_encoded_once_and_drawn_at_block_boundaries_only(toy):
    policy = toy.make_mpc(config=MPCConfig(execute_blocks=1), iterations=2)
    worlds = begin(policy, toy, [(0.0, 0.0)])
    play(policy, worlds, 50)
    encoded = [len(frames) * frames.shape[1] for frames in policy.planner.backend.encoded]
    assert encoded == [1] * 11  # the goal, then one new frame per plan
    assert worlds[0].renders == 10


def test_frames_that_no_plan_will_see_are_not_encoded(toy):
    policy = toy.make_mpc(iterations=2)  # executes five blocks, looks back on three frames
    play(policy, begin(policy, toy, [(0.0, 0.0)]), 50)
    assert [frames.shape[1] for frames in policy.planner.backend.encoded] == [1, 1, 3]


def test_a_shorter_history_must_be_asked_for_and_be_possible(toy):
    policy = toy.make_mpc(config=MPCConfig(execute_blocks=1, history=1), iterations=1)
    play(policy, begin(policy, toy, [(0.0, 0.0)]), 20)
    assert {query[0].shape[1] for query in policy.planner.backend.scored} == {1}
    assert policy.describe()["history"] == 1
    assert policy.describe()["trained_history"] == 3
    with pytest.raises(ValueError, match=r"MPCConfig.history: found 4, expected 1 to 3 \(the trained history\)"):
        toy.make_mpc(config=MPCConfig(history=4))


def horizons(policy):
    return [query[2].shape[2] for query in policy.planner.backend.scored]


def test_the_horizon_shrinks_towards_the_arrival(toy):
    def shrinking(arrival, steps):
        config = MPCConfig(horizon=5, execute_blocks=2, arrival=arrival)
        policy = toy.make_mpc(config=config, iterations=1)
        play(policy, begin(policy, toy, [(0.0, 0.0)]), steps)
        return horizons(policy)

    assert shrinking(None, 40) == [5, 5, 5, 5]
    assert shrinking(40, 40) == [5, 5, 4, 2]
    assert shrinking(33, 40) == [5, 5, 3, 1, 5]  # missed, and due again
    with pytest.raises(ValueError, match=r"MPCConfig.arrival: found 0, expected at least 1"):
        MPCConfig(arrival=0)


def test_another_goal_is_due_when_it_says(toy):
    policy = toy.make_mpc(config=MPCConfig(horizon=5, execute_blocks=1, arrival=15), iterations=1)
    worlds = begin(policy, toy, [(0.0, 0.0)])
    play(policy, worlds, 10)
    goals = policy.planner.encode_goal(np.stack([toy.PointMass().render()]), np.zeros((1, 0)))
    policy.aim(goals, np.array([0]), offset=20)
    play(policy, worlds, 10)
    assert horizons(policy) == [3, 2, 4, 3]


def test_a_warm_start_continues_the_last_plan(toy):
    config = MPCConfig(horizon=5, execute_blocks=2, warm_start=True)
    policy = toy.make_mpc(config=config, iterations=1)
    worlds = begin(policy, toy, [(0.0, 0.0), (1.0, 1.0)])
    plans = []
    plan = policy.planner.plan
    policy.planner.plan = lambda *args, **options: plans.append(plan(*args, **options)) or plans[-1]
    play(policy, worlds, 20)
    for query in (1,):
        guess = policy.planner.backend.scored[query][2][:, 0]
        np.testing.assert_allclose(guess[:, :3], plans[query - 1].actions[:, 2:], atol=1e-6)
        np.testing.assert_allclose(guess[0, 3:], np.tile(policy.planner.backend.spec.action_mean, (2, 1)), atol=1e-6)


def test_tasks_that_drop_out_leave_the_others_unchanged(toy):
    config = MPCConfig(execute_blocks=1, warm_start=True)
    starts = [(0.0, 0.0), (1.0, 1.0), (-2.0, 0.5)]
    whole = toy.make_mpc(config=config, iterations=2)
    everything = play(whole, begin(whole, toy, starts), 20)[1]
    partial = toy.make_mpc(config=config, iterations=2)
    worlds = begin(partial, toy, starts)
    first = play(partial, worlds, 7)[1]
    rest = play(partial, worlds, 13, active=[0, 2])[1]
    np.testing.assert_array_equal(first, everything[:7])
    np.testing.assert_array_equal(rest, everything[7:][:, [0, 2]])
    assert partial.planner.backend.scored[-1][0].shape[0] == 2


def test_a_policy_can_be_used_again(toy):
    policy = toy.make_mpc(iterations=2)
    first = play(policy, begin(policy, toy, [(0.0, 0.0)]), 30)[1]
    second = play(policy, begin(policy, toy, [(0.0, 0.0)]), 30)[1]
    np.testing.assert_array_equal(first, second)


def test_proprioception_goes_with_every_frame_and_the_goal(toy):
    policy = toy.make_mpc(config=MPCConfig(execute_blocks=1), iterations=2, proprio=2)
    worlds = begin(policy, toy, [(0.0, 0.0), (1.0, 2.0)])
    positions, _ = play(policy, worlds, 15)
    goal, *frames = policy.planner.backend.felt
    np.testing.assert_array_equal(goal[:, 0], np.float32([[60, 50]] * 2))
    np.testing.assert_array_equal(np.concatenate(frames, axis=1), np.float32(10 * positions[::5]).swapaxes(0, 1))
    with pytest.raises(ValueError, match=r"proprio: found nothing, expected float32 of shape \(1, 1, 2\)"):
        policy.planner.encode(worlds[0].render()[None, None])


def test_an_encoder_that_follows_objects_gets_the_whole_history(toy):
    config = MPCConfig(execute_blocks=1)
    policy = toy.make_mpc(config=config, iterations=2, whole_history=True)
    actions = play(policy, begin(policy, toy, [(0.0, 0.0)]), 30)[1]
    assert [frames.shape[1] for frames in policy.planner.backend.encoded] == [1, 1, 2, 3, 3, 3, 3]
    one_by_one = toy.make_mpc(config=config, iterations=2)
    np.testing.assert_array_equal(actions, play(one_by_one, begin(one_by_one, toy, [(0.0, 0.0)]), 30)[1])


def test_a_rehearsal_encodes_one_frame_and_plans_with_a_full_history(toy):
    policy = toy.make_mpc(iterations=3)
    world = toy.PointMass()
    call = policy.rehearsal(world, assign(world, np.zeros(2), np.full(2, 3.0), np.random.default_rng(0)))
    before = len(policy.planner.backend.encoded)
    plan = call()
    assert plan.iterations == 3
    assert len(policy.planner.backend.encoded) - before == 1
    assert policy.planner.backend.scored[-1][0].shape == (1, 3, 1, 2)
    assert policy.planner.backend.scored[-1][1].shape == (1, 2, 10)


def test_executing_more_than_is_planned_is_refused():
    with pytest.raises(ValueError, match=r"MPCConfig.execute_blocks: found 6, expected 1 to horizon = 5"):
        MPCConfig(execute_blocks=6)
