"""Planning on two time scales in a world whose dynamics are known exactly."""

import numpy as np
import pytest

from jepakit.planning import (
    CEM,
    CEMConfig,
    ControlConfig,
    ControlLoop,
    MPCConfig,
    MPCPolicy,
    ObjectiveConfig,
    Planner,
    PlannerConfig,
    PlannerSpec,
    ReachTargetConfig,
    Scores,
    TwoLevelConfig,
    TwoLevelPolicy,
)
from jepakit.planning.evaluation.loop import assign

REACH = 25


@pytest.fixture
def coarse(toy):
    """Macro-actions move the point by up to what 25 steps can; x comes first where a wall would be."""

    class Coarse:
        def __init__(self, width=2):
            bound = np.full(2, 3.0, np.float32)
            self.spec = PlannerSpec(
                image_size=toy.SIZE,
                history=1,
                frame_skip=1,
                action_dim=2,
                action_mean=np.zeros(2, np.float32),
                action_std=np.ones(2, np.float32),
                action_low=-bound,
                action_high=bound,
                tokens=1,
                width=width,
            )
            self.horizons = []

        encode = toy.ExactBackend().encode

        def imagine(self, history, past_actions, candidates):
            moved = np.clip(candidates, -2, 2) * REACH * toy.SPEED / 2
            return (history[:, -1, 0][:, None, None] + np.cumsum(moved, axis=2, dtype=np.float32))[..., None, :]

        def score(self, history, past_actions, candidates, goal):
            self.horizons.append(candidates.shape[2])
            ahead = self.imagine(history, past_actions, candidates)[..., 0, :]
            return Scores(distance=np.square(ahead - goal[:, None]).sum(axis=-1))

    return Coarse


def start(policy, toy, goals, budget=100):
    worlds = [toy.PointMass() for _ in goals]
    rng = np.random.SeedSequence(0).spawn(len(goals))
    policy.reset(
        [
            assign(world, np.zeros(2), np.array(goal), np.random.default_rng(seed))
            for world, goal, seed in zip(worlds, goals, rng, strict=True)
        ],
        budget,
    )
    return worlds


def test_far_goals_are_reached_by_subgoals(toy, coarse):
    low = toy.make_mpc(config=MPCConfig(horizon=5, execute_blocks=5))
    high = coarse()
    policy = TwoLevelPolicy(low, high, reach=REACH, config=TwoLevelConfig(offset=75))
    goals = [(20.0, -6.0), (-12.0, 15.0)]
    worlds = start(policy, toy, goals)
    aims = []
    for _ in range(100):
        aims.append(policy._goals[:, 0].copy())
        actions = policy.act(worlds, [0, 1])
        for world, action in zip(worlds, actions, strict=True):
            world.advance(action)
    for world, goal in zip(worlds, goals, strict=True):
        assert toy.PointMass.distance(world.state, goal) < 1.0
    iterations = policy.levels.cem.iterations
    assert high.horizons == [3] * iterations + [2] * iterations  # then the goal is near enough
    assert policy._goals[:, 0].tolist() == np.float32(goals).tolist()
    assert not np.array_equal(aims[1], np.float32(goals))
    # The plan below was made for the subgoals.
    searches = policy.planner.backend.scored[:: policy.planner.solver.config.iterations]
    assert np.linalg.norm(searches[0][3][0, 0] - goals[0]) > 5.0


def test_near_goals_need_no_second_level(toy, coarse):
    low = toy.make_mpc(config=MPCConfig(horizon=5, execute_blocks=1))
    high = coarse()
    policy = TwoLevelPolicy(low, high, reach=REACH, config=TwoLevelConfig(offset=REACH))
    worlds = start(policy, toy, [(4.0, 3.0)], budget=25)
    plain = toy.make_mpc(config=MPCConfig(horizon=5, execute_blocks=1))
    others = start(plain, toy, [(4.0, 3.0)], budget=25)
    for _ in range(25):
        actions = [agent.act(seen, [0])[0] for agent, seen in ((policy, worlds), (plain, others))]
        np.testing.assert_array_equal(*actions)
        for world, action in zip((*worlds, *others), actions, strict=True):
            world.advance(action)
    assert not high.horizons


def test_tasks_that_drop_out_change_nothing_for_the_others(toy, coarse):
    def play(active_after):
        low = toy.make_mpc(config=MPCConfig(horizon=5, execute_blocks=5))
        policy = TwoLevelPolicy(low, coarse(), reach=REACH, config=TwoLevelConfig(offset=75))
        worlds = start(policy, toy, [(2.0, 1.0), (-12.0, 15.0)])
        for step in range(60):
            active = [0, 1] if step < 20 else active_after
            for index, action in zip(active, policy.act([worlds[i] for i in active], active), strict=True):
                worlds[index].advance(action)
        return worlds[1].state

    np.testing.assert_allclose(play([1]), play([0, 1]), atol=1e-5)


def test_the_dearest_decision_is_timed(toy, coarse):
    low = toy.make_mpc()
    high = coarse()
    policy = TwoLevelPolicy(low, high, reach=REACH, config=TwoLevelConfig(offset=75))
    world = toy.PointMass()
    plan = policy.rehearsal(world, toy.assign(world, (4.0, 3.0)))
    assert plan().actions.shape == (1, 5, 10)
    assert high.horizons == [3] * policy.levels.cem.iterations
    settings = policy.describe()
    assert settings["name"] == "two_level"
    assert settings["two_level"]["offset"] == 75


def test_a_controller_below_is_told_how_far_the_subgoal_is(toy, coarse):
    asked = []

    class Proposing(toy.ExactBackend):
        def propose(self, latents, goal, offset):
            asked.append(float(offset[0]))
            return np.zeros((len(latents), 1, 3, 2 * toy.SKIP), np.float32)

    backend = Proposing(proposals=1, proposed_blocks=3, max_offset=50)
    low = PlannerConfig.parse(
        {"solver": "controller", "controller": {"offset": 25}, "mpc": {"horizon": 3, "execute_blocks": 1}}, where="test"
    ).policy(backend)
    policy = TwoLevelPolicy(low, coarse(), reach=REACH, config=TwoLevelConfig(offset=60))
    worlds = start(policy, toy, [(2.0, 1.0)], budget=70)
    for _ in range(70):
        policy.act(worlds, [0])
    # Two subgoals, then the goal, which 10 steps later is thought to be just ahead.
    assert asked == [25, 20, 15, 10, 5] * 2 + [10, 5, 5, 5]


def test_what_does_not_fit_is_refused(toy, coarse):
    low = toy.make_mpc()
    with pytest.raises(ValueError, match=r"coarse: found picture, tokens and width \(4, 1, 3\), expected those of"):
        TwoLevelPolicy(low, coarse(width=3), reach=REACH)
    with pytest.raises(ValueError, match=r"TwoLevelConfig.replan: found 7, expected a multiple of the frame skip, 5"):
        TwoLevelPolicy(low, coarse(), reach=REACH, config=TwoLevelConfig(replan=7))
    with pytest.raises(ValueError, match=r"TwoLevelConfig.offset: found 0, expected at least 1"):
        TwoLevelConfig(offset=0)
    backend = toy.DifferentiableBackend()
    target = ObjectiveConfig(goal=0.0, reach=ReachTargetConfig(names=("x",), target=(1.0,))).objective(backend.spec)
    blind = MPCPolicy(Planner(backend, CEM(CEMConfig(samples=8, elites=2)), target))
    with pytest.raises(ValueError, match="objective: found one without a goal picture"):
        TwoLevelPolicy(blind, coarse(), reach=REACH)
    with pytest.raises(ValueError, match="goals: found none to replace"):
        blind.aim(np.zeros((0, 1, 2), np.float32), np.zeros(0, np.intp))


def test_how_far_the_goal_is_may_be_told(toy, coarse):
    high = coarse()
    policy = TwoLevelPolicy(toy.make_mpc(), high, reach=REACH, config=TwoLevelConfig(offset=75))
    worlds, iterations = start(policy, toy, [(20.0, -6.0)]), policy.levels.cem.iterations
    for offset, searched in ((100, [4]), (30, [2]), (10, []), (None, [3])):
        policy.expect(offset)
        for _ in range(toy.SKIP):
            policy.act(worlds, [0])
        assert high.horizons == searched * iterations
        high.horizons.clear()
    with pytest.raises(ValueError, match="offset: found 0, expected at least 1 environment step"):
        policy.expect(0)


def test_both_searches_end_with_the_deadline(toy, coarse):
    high = coarse()
    policy = TwoLevelPolicy(toy.make_mpc(), high, reach=REACH, config=TwoLevelConfig(offset=75))
    worlds = start(policy, toy, [(20.0, -6.0)])
    policy.act(worlds, [0], deadline=0.0)
    assert len(high.horizons) == len(policy.planner.backend.scored) == 1  # the first iteration always runs


def test_a_search_for_a_subgoal_that_failed_is_made_again(toy, coarse):
    high = coarse()
    policy = TwoLevelPolicy(toy.make_mpc(), high, reach=REACH, config=TwoLevelConfig(offset=75))
    worlds = start(policy, toy, [(20.0, -6.0)])
    score, high.score = high.score, None
    with pytest.raises(TypeError):
        policy.act(worlds, [0])
    high.score = score
    policy.act(worlds, [0])
    assert len(high.horizons) == policy.levels.cem.iterations
    assert not np.array_equal(policy._goals[0, 0], np.float32([20.0, -6.0]))


def test_a_robots_loop_warms_both_levels_up(toy, coarse):
    high = coarse()
    policy = TwoLevelPolicy(toy.make_mpc(), high, reach=REACH, config=TwoLevelConfig(offset=75))
    loop = ControlLoop(policy, ControlConfig(period=0.1, stop_action=(0.0, 0.0)))
    loop.start(toy.PointMass().picture(np.array([20.0, -6.0])))
    assert high.horizons == [3] * policy.levels.cem.iterations
