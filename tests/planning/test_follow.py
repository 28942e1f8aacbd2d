"""Controllers in the planner: followed without a search, and as a search's first guesses."""

import time

import numpy as np
import pytest

from jepakit.planning import CEM, CEMConfig, Follow, MPCConfig, MPCPolicy, Planner, ProposalConfig
from jepakit.planning.control import ControlConfig, ControlLoop, Sight
from jepakit.planning.search import IterativeSolver
from jepakit.planning.settings import PlannerConfig


@pytest.fixture
def proposing(toy):
    """The exact backend with a controller that knows the way: as fast as needed, in two modes."""

    class Proposing(toy.ExactBackend):
        def __init__(self, **spec):
            super().__init__(proposals=2, proposed_blocks=3, max_offset=50, **spec)
            self.asked = []

        def propose(self, latents, goal, offset):
            self.asked.append(offset.copy())
            speed = (goal - latents)[:, 0] / toy.SPEED / offset[:, None]
            steps = np.repeat(np.clip(speed, -1, 1)[:, None], 3 * toy.SKIP, axis=1).reshape(len(latents), 1, 3, -1)
            return np.concatenate([steps, -steps], axis=1).astype(np.float32)

    return Proposing


def play(policy, toy, goal, steps):
    from jepakit.planning import Assignment

    world = toy.PointMass()
    world.reset(options={"state": np.zeros(2)})
    assignment = Assignment(
        state=np.zeros(2),
        goal_state=np.array(goal),
        goal_frame=world.picture(np.array(goal)),
        goal_proprio=np.zeros(2),
        rng=np.random.default_rng(0),
    )
    policy.reset([assignment], steps)
    for _ in range(steps):
        [action] = policy.act([world], [0])
        world.advance(action)
    return world.state


def test_following_needs_no_imagination(proposing, toy):
    backend = proposing()
    policy = PlannerConfig(solver="controller", mpc=MPCConfig(horizon=3, execute_blocks=1)).policy(backend)
    np.testing.assert_allclose(play(policy, toy, (3.0, -2.0), 25), (3.0, -2.0), atol=1e-4)
    assert not backend.scored
    # Once per block, nearer every time.
    assert [float(offset[0]) for offset in backend.asked] == [25, 20, 15, 10, 5]
    assert np.isnan(policy.last_plan.cost).all()
    assert policy.describe()["solver"] == {"name": "controller"}
    assert policy.describe()["proposals"] == {"offset": 25, "least_offset": 5}


def test_the_robots_loop_warms_the_controller_up(proposing, toy):
    backend = proposing()
    policy = PlannerConfig(solver="controller", mpc=MPCConfig(horizon=3, execute_blocks=1)).policy(backend)
    loop = ControlLoop(policy, ControlConfig(period=0.1, stop_action=(0.0, 0.0)))
    goal = toy.PointMass().picture(np.array((3.0, -2.0)))
    loop.start(goal)
    assert len(backend.asked) == policy.history  # before the first frame
    command = loop.step(Sight(frame=toy.PointMass().picture(np.zeros(2)), taken_at=time.monotonic()))
    assert command.fault is None
    assert command.action[0] > 0 > command.action[1]


def test_a_goal_farther_than_the_controller_is_asked_about_comes_nearer_first(proposing, toy):
    backend = proposing()
    policy = PlannerConfig(solver="controller", mpc=MPCConfig(horizon=3, execute_blocks=1)).policy(backend)
    world = toy.PointMass()
    policy.reset([toy.assign(world, (20.0, 5.0))], budget=100)
    policy.expect(40)
    for _ in range(50):
        policy.act([world], [0])
    told = [float(offset[0]) for offset in backend.asked]
    assert told == [25, 25, 25, 25, 20, 15, 10, 5, 5, 5]  # as far as 40, 35, 30, 25, ...


def test_the_offset_never_falls_below_the_least():
    config = ProposalConfig(offset=25, least_offset=10)
    assert [config.at(step) for step in (0, 5, 14, 15, 16, 60)] == [25, 20, 11, 10, 10, 10]


def test_a_search_starts_from_the_proposals(proposing, toy):
    backend = proposing()
    config = PlannerConfig(
        cem=CEMConfig(samples=8, elites=2, iterations=1), mpc=MPCConfig(horizon=4, execute_blocks=1), proposals=True
    )
    policy = config.policy(backend)
    play(policy, toy, (1.0, 1.0), 1)
    candidates = backend.scored[0][2][0]
    plans = backend.propose(np.zeros((1, 1, 2), np.float32), np.ones((1, 1, 2), np.float32), np.float32([25]))[0]
    np.testing.assert_allclose(candidates[:2, :3], plans, atol=1e-5)
    np.testing.assert_allclose(candidates[:2, 3], np.tile(backend.spec.action_mean, (2, 1)), atol=1e-5)


def test_proposals_come_before_what_the_last_search_left(proposing, toy, monkeypatch):
    seen = []
    solve = IterativeSolver.solve

    def spy(self, *arguments, initial=None, **options):
        seen.append(initial)
        return solve(self, *arguments, initial=initial, **options)

    monkeypatch.setattr(IterativeSolver, "solve", spy)
    planner = Planner(proposing(), CEM(CEMConfig(samples=8, elites=2, iterations=1)))
    config = MPCConfig(horizon=3, execute_blocks=1, warm_start=True)
    play(MPCPolicy(planner, config, proposals=ProposalConfig()), toy, (1.0, 1.0), 6)
    first, second = seen
    assert first.shape[1] == 2
    assert second.shape[1] == 3
    mean, std = planner.backend.spec.action_mean, planner.backend.spec.action_std
    plan, opposite = second[0, :2] * std + mean
    np.testing.assert_allclose(plan, -opposite, atol=1e-5)


def test_following_keeps_the_bounds(proposing, toy):
    planner = Planner(proposing(), Follow(), bounded=True)
    policy = MPCPolicy(planner, MPCConfig(horizon=3, execute_blocks=3), proposals=ProposalConfig(offset=5))
    play(policy, toy, (40.0, 0.0), 1)
    assert policy.last_plan.actions.max() <= 1.0


def test_the_clock_may_rehearse_it(proposing, toy):
    policy = PlannerConfig(solver="controller", mpc=MPCConfig(horizon=3, execute_blocks=1)).policy(proposing())
    world = toy.PointMass()
    from jepakit.planning import Assignment

    assignment = Assignment(
        state=np.zeros(2),
        goal_state=np.ones(2),
        goal_frame=world.picture(np.ones(2)),
        goal_proprio=np.zeros(2),
        rng=np.random.default_rng(0),
    )
    assert np.isfinite(policy.rehearsal(world, assignment)().actions).all()


def test_without_a_controller_it_is_refused(toy):
    with pytest.raises(ValueError, match="controller: found none in this backend"):
        PlannerConfig(solver="controller", mpc=MPCConfig(horizon=3, execute_blocks=1)).policy(toy.ExactBackend())
    with pytest.raises(ValueError, match="controller: found none in this backend"):
        PlannerConfig(proposals=True).policy(toy.ExactBackend())
    planner = Planner(toy.ExactBackend(), Follow())
    seen = planner.observe(toy.PointMass().render()[None, None])
    with pytest.raises(ValueError, match="initial plan: found none, expected a controller's"):
        planner.plan(seen, np.zeros((1, 1, 2), np.float32), horizon=1, rngs=[np.random.default_rng(0)])


def test_goals_beyond_the_trained_range_are_refused(proposing):
    config = PlannerConfig(
        solver="controller", controller=ProposalConfig(offset=51), mpc=MPCConfig(horizon=3, execute_blocks=1)
    )
    with pytest.raises(ValueError, match=r"controller.offset: found 51, expected 1 to 50"):
        config.policy(proposing())


@pytest.mark.parametrize("values", [{"offset": 3}, {"least_offset": 0}, {"offset": 0, "least_offset": 0}])
def test_wrong_offsets_are_refused(values):
    with pytest.raises(ValueError, match=r"ProposalConfig.least_offset: found"):
        ProposalConfig(**values)
