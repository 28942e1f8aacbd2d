"""The robot's loop on a world whose every fault can be brought about, with a clock that only the test moves."""

import logging
import time

import numpy as np
import pytest

from jepakit.planning import ControlConfig, ControlLoop, MPCConfig, Sight

PERIOD = 0.1
STOP = (0.25, -0.25)


class Clock:
    """Far ahead of the real clock, with which solvers compare their deadline: searches never stop early."""

    def __init__(self):
        self.now = time.monotonic() + 1e6

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


class Robot:
    """A point mass with a loop; ``tick`` is one period."""

    def __init__(self, toy, *, config=None, proprio=0, seed=0, **settings):
        self.toy, self.clock, self.world = toy, Clock(), toy.PointMass()
        self.policy = toy.make_mpc(
            config=config or MPCConfig(horizon=2, execute_blocks=1), iterations=4, proprio=proprio
        )
        self.backend = self.policy.planner.backend
        self.loop = ControlLoop(
            self.policy, ControlConfig(period=PERIOD, stop_action=STOP, **settings), clock=self.clock
        )
        self.goal = np.array([6.0, 5.0])
        self.loop.start(self.world.picture(self.goal), proprio=self.world.proprio_of(self.goal), seed=seed)
        self.backend.scored.clear()

    def sight(self, **changes):
        seen = {"frame": self.world.render(), "taken_at": self.clock(), "proprio": np.float32(self.world.proprio)}
        return Sight(**(seen | changes))

    def tick(self, **changes):
        command = self.loop.step(self.sight(**changes))
        self.world.advance(command.action)
        self.clock.now += PERIOD
        return command

    @property
    def distance(self):
        return self.toy.PointMass.distance(self.world.state, self.goal)


@pytest.fixture
def robot(toy):
    return Robot(toy)


def test_it_arrives_and_sends_what_the_policy_sends_in_evaluation(toy, robot):
    from jepakit.planning import Assignment

    actions = [robot.tick().action for _ in range(30)]
    assert robot.distance < 1.0
    assert robot.loop.summary().faults == {}
    other, world = toy.make_mpc(config=robot.policy.config, iterations=4), toy.PointMass()
    assignment = Assignment(
        state=world.state,
        goal_state=robot.goal,
        goal_frame=world.picture(robot.goal),
        goal_proprio=world.proprio_of(robot.goal),
        rng=np.random.default_rng(0),
    )
    other.reset([assignment], 0)
    for action in actions:
        [expected] = other.act([world], [0])
        np.testing.assert_array_equal(action, np.clip(expected, -1, 1))
        world.advance(expected)


NAN = np.full((4, 4, 3), np.nan)
BAD = {
    "stale_frame": [{"taken_at": -0.21}, {"taken_at": 0.11}, {"taken_at": np.nan}],
    "bad_frame": [
        {"frame": NAN},
        {"frame": np.zeros((4, 5, 3), np.uint8)},
        {"frame": np.zeros((4, 4, 4), np.uint8)},
        {"frame": np.zeros((4, 4), np.uint8)},
        {"frame": np.zeros((4, 4, 3), np.int8)},
    ],
    "bad_proprio": [
        {"proprio": None},
        {"proprio": np.array([np.nan, 0])},
        {"proprio": np.array([np.inf, 0])},
        {"proprio": np.zeros(3)},
        {"proprio": np.array(["a", "b"])},
    ],
}


@pytest.mark.parametrize(("fault", "changes"), [(fault, change) for fault in BAD for change in BAD[fault]])
def test_what_cannot_be_acted_upon_stops_the_robot_and_it_recovers(toy, fault, changes):
    robot = Robot(toy, proprio=2)
    robot.tick()
    if "taken_at" in changes:
        changes = {"taken_at": robot.clock() + changes["taken_at"]}
    command = robot.tick(**changes)
    assert command.fault == fault
    assert command.detail
    np.testing.assert_array_equal(command.action, np.float32(STOP))
    assert [robot.tick().fault for _ in range(30)] == [None] * 30
    assert robot.loop.summary().faults == {fault: 1}
    assert robot.distance < 1.0


def test_a_frame_of_exactly_the_greatest_age_is_used(robot):
    robot.clock.now = 2.0**20
    assert robot.tick(taken_at=robot.clock() - 0.2 + 1e-6).fault is None


def test_after_a_fault_the_model_sees_only_what_came_after_it(robot):
    for _ in range(12):
        robot.tick()
    before = len(robot.backend.scored)
    robot.loop.step(None)
    robot.tick()
    history, past_actions, *_ = robot.backend.scored[before]
    assert history.shape[1] == 1
    assert past_actions.shape[1] == 0
    robot.backend.scored.clear()
    for _ in range(robot.toy.SKIP):
        robot.tick()
    assert robot.backend.scored[0][0].shape[1] == 2


def test_no_frame(robot):
    command = robot.loop.step(None)
    assert command.fault == "no_frame"
    np.testing.assert_array_equal(command.action, np.float32(STOP))


@pytest.mark.parametrize("error", [ValueError("broken"), MemoryError(), ZeroDivisionError("x")])
def test_a_planner_that_raises(robot, error):
    def fail(*_):
        raise error

    score, robot.backend.score = robot.backend.score, fail
    command = robot.tick()
    assert command.fault == "planner_error"
    assert type(error).__name__ in command.detail
    robot.backend.score = score
    assert robot.tick().fault is None


def test_a_plan_that_is_not_finite_is_never_begun(robot):
    plan = robot.policy.planner.plan

    def broken(*arguments, **options):
        found = plan(*arguments, **options)
        found.actions[:, -1, -1] = np.nan  # far beyond what would be executed next
        return found

    robot.policy.planner.plan = broken
    command = robot.tick()
    assert command.fault == "bad_plan"
    np.testing.assert_array_equal(command.action, np.float32(STOP))
    robot.policy.planner.plan = plan
    assert robot.tick().fault is None


def test_a_plan_that_comes_too_late_is_discarded(robot):
    encode = robot.backend.encode
    slowness = [0.05, 0.11, 0.05]

    def slow(*arguments):
        robot.clock.now += slowness.pop(0)
        return encode(*arguments)

    robot.backend.encode = slow
    assert robot.tick().fault is None
    assert [robot.tick().fault for _ in range(4)] == [None] * 4
    late = robot.tick()
    assert late.fault == "missed_deadline"
    np.testing.assert_array_equal(late.action, np.float32(STOP))
    assert robot.tick().fault is None  # planned anew
    summary = robot.loop.summary()
    assert summary.faults == {"missed_deadline": 1}
    assert summary.plan.repeats == 3
    assert summary.plan.p50 == pytest.approx(50)
    assert 50 < summary.plan.p95 <= 110 + 1e-6


def test_the_search_gets_the_deadline_that_follows_from_the_period(toy):
    def deadline(**settings):
        robot = Robot(toy, **settings)
        seen, plan = [], robot.policy.planner.plan

        def spy(*arguments, **options):
            seen.append(options["deadline"] - robot.clock())
            return plan(*arguments, **options)

        robot.policy.planner.plan = spy
        robot.tick()
        return seen

    assert deadline() == [pytest.approx(0.08)]
    assert deadline(planning_time=0.03) == [pytest.approx(0.03)]


def test_a_deadline_in_the_past_ends_the_search_after_one_iteration(robot):
    robot.clock.now = 1.0  # long before now on the solver's clock
    robot.tick()
    assert len(robot.backend.scored) == 1


def test_hold_repeats_the_last_action_for_a_while_then_stops(toy):
    robot = Robot(toy, on_fault="hold", hold_steps=2)
    np.testing.assert_array_equal(robot.loop.step(None).action, np.float32(STOP))  # nothing to hold yet
    last = robot.tick().action
    assert not np.array_equal(last, np.float32(STOP))
    actions = [robot.loop.step(None).action for _ in range(4)]
    np.testing.assert_array_equal(actions, [last, last, np.float32(STOP), np.float32(STOP)])
    again = robot.tick().action
    np.testing.assert_array_equal(robot.loop.step(None).action, again)


def test_actions_are_clipped_to_the_robots_bounds(toy):
    robot = Robot(toy)
    robot.policy.planner.bounded = False
    actions = np.array([robot.tick().action for _ in range(20)])
    assert np.abs(actions).max() == 1.0
    assert robot.loop.summary().faults == {}


def test_frames_may_be_overwritten_by_the_camera(toy):
    def actions(reuse):
        robot, memory = Robot(toy, config=MPCConfig(execute_blocks=2)), np.empty((4, 4, 3), np.uint8)
        sent = []
        for _ in range(30):
            frame = robot.world.render()
            memory[:] = frame
            sent.append(robot.tick(frame=memory if reuse else frame).action)
            memory[:] = 255
        return sent

    np.testing.assert_array_equal(actions(True), actions(False))


def test_run_keeps_the_pace_and_counts_from_an_overlong_step_onwards(robot):
    sent, times = [], []

    def send(action):
        sent.append(action)
        times.append(robot.clock())
        if len(sent) == 3:
            robot.clock.now += 0.25

    summary = robot.loop.run(robot.sight, send, steps=6, sleep=robot.clock.sleep)
    np.testing.assert_allclose(np.diff(times[:6]), [0.1, 0.1, 0.25, 0.1, 0.1], atol=1e-6)
    assert (summary.steps, summary.overruns) == (6, 1)
    assert summary.jitter.repeats == 5
    assert summary.jitter.p99 == pytest.approx(150, rel=0.05)
    assert len(sent) == 7
    np.testing.assert_array_equal(sent[-1], np.float32(STOP))  # however it ends


def test_no_action_is_shorter_than_a_period_however_long_planning_takes(toy):
    robot = Robot(toy)  # a block has five actions, and every block is planned
    act = robot.policy.act

    def slow(*arguments, **named):
        before = robot.policy.last_plan
        found = act(*arguments, **named)
        if robot.policy.last_plan is not before:
            robot.clock.now += 0.8 * PERIOD
        return found

    robot.policy.act = slow
    times = []
    summary = robot.loop.run(robot.sight, lambda _: times.append(robot.clock()), steps=20, sleep=robot.clock.sleep)
    np.testing.assert_allclose(np.diff(times), PERIOD, atol=1e-6)  # the last one before the stop, too
    assert (summary.overruns, summary.faults) == (0, {})
    assert summary.jitter.p99 == pytest.approx(0.0, abs=1e-3)
    assert summary.plan.p50 == pytest.approx(80, rel=0.05)


def test_the_cameras_time_is_the_periods(toy):
    robot = Robot(toy, max_age=1.0)

    def camera():
        robot.clock.now += 0.6 * PERIOD
        return robot.sight()

    asked = []
    act = robot.policy.act

    def slow(*arguments, deadline):
        asked.append(deadline - robot.clock())
        robot.clock.now += 0.6 * PERIOD
        return act(*arguments, deadline=deadline)

    robot.policy.act = slow
    summary = robot.loop.run(camera, lambda _: None, steps=1, sleep=robot.clock.sleep)
    assert asked == [pytest.approx(0.2 * PERIOD, rel=1e-3)]  # until 80 % of the period
    assert summary.faults == {"missed_deadline": 1}
    assert summary.overruns == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"frame": None}, "bad_frame"),
        ({"frame": [[1]]}, "bad_frame"),
        ({"taken_at": None}, "stale_frame"),
        ({"taken_at": "3"}, "stale_frame"),
        ({"proprio": {"x": 1.0}}, "bad_proprio"),
    ],
)
def test_what_no_camera_should_give_is_a_fault_too(toy, changes, fault):
    robot = Robot(toy, proprio=2)
    assert robot.tick(**changes).fault == fault
    assert robot.tick(proprio=[0.0, 0.0], taken_at=np.float32(robot.clock())).fault in (None, "stale_frame")
    assert robot.tick(proprio=robot.world.proprio.tolist()).fault is None


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError])
def test_run_stops_the_robot_when_it_is_interrupted(robot, end):
    sent = []

    def send(action):
        sent.append(action)
        if len(sent) == 2:
            raise end

    with pytest.raises(end):
        robot.loop.run(robot.sight, send, sleep=robot.clock.sleep)
    np.testing.assert_array_equal(sent[-1], np.float32(STOP))
    assert len(sent) == 3


def test_a_camera_that_raises_is_one_without_a_frame(robot):
    def camera():
        raise OSError("unplugged")

    assert robot.loop.run(camera, lambda _: None, steps=3, sleep=robot.clock.sleep).faults == {"no_frame": 3}


def test_faults_are_logged_where_they_begin_change_and_end(robot, caplog):
    caplog.set_level(logging.INFO, "jepakit.control")
    robot.tick()
    for _ in range(50):
        robot.loop.step(None)
    robot.tick(frame=NAN)
    robot.tick()
    assert [record.getMessage().split(": ")[1].split(" ")[0] for record in caplog.records] == [
        "no_frame",
        "bad_frame",
        "recovered",
    ]
    text = str(robot.loop.summary())
    assert "53 steps, 0 longer than a period; faults: no_frame 50, bad_frame 1; plan p50/p95/p99" in text


def test_a_new_start_is_a_new_beginning(robot):
    first = [robot.tick().action for _ in range(10)]
    robot.world.state = np.zeros(2)
    robot.loop.start(robot.world.picture(robot.goal), seed=0)
    assert robot.loop.summary().steps == 0
    np.testing.assert_array_equal([robot.tick().action for _ in range(10)], first)


def test_starting_warms_every_length_of_the_history_up(toy):
    policy = toy.make_mpc(iterations=1)
    loop = ControlLoop(policy, ControlConfig(period=PERIOD, stop_action=STOP))
    loop.start(toy.PointMass().render())
    assert [query[0].shape[1] for query in policy.planner.backend.scored] == [1, 2, 3]


def test_a_plan_ends_when_the_goal_is_due(toy):
    robot = Robot(toy)
    robot.policy.config = MPCConfig(horizon=5, execute_blocks=1, arrival=25)
    picture = robot.world.picture(robot.goal)
    with pytest.raises(ValueError, match=r"offset: found 0, expected at least 1"):
        robot.loop.start(picture, offset=0)
    for offset, expected in ((None, [5, 4, 3]), (15, [3, 2, 1])):
        robot.loop.start(picture, offset=offset)
        robot.backend.scored.clear()
        for _ in range(15):
            robot.tick()
        assert [query[2].shape[2] for query in robot.backend.scored[::4]] == expected


def horizons(robot):
    """Of the plans that were made; the toy's search scores four times for each."""
    return [query[2].shape[2] for query in robot.backend.scored[::4]]


def on_time(toy):
    robot = Robot(toy)
    robot.policy.config = MPCConfig(horizon=5, execute_blocks=1, arrival=25)
    robot.loop.start(robot.world.picture(robot.goal))
    robot.backend.scored.clear()
    return robot


def test_a_robot_that_stands_still_comes_no_nearer(toy):
    robot = on_time(toy)
    encode = robot.backend.encode

    def slow(*arguments):
        robot.clock.now += 1.5 * PERIOD
        return encode(*arguments)

    robot.backend.encode = slow
    assert {robot.tick().fault for _ in range(6)} == {"missed_deadline"}
    robot.backend.encode = encode
    assert [robot.tick().fault for _ in range(10)] == [None] * 10
    assert horizons(robot) == [5] * 6 + [5, 4]


def test_only_the_steps_that_were_taken_count(toy):
    """Two of the first block, then the camera fails: the goal, due after 25 steps, is 23 away, then 18."""
    robot = on_time(toy)
    robot.tick()
    robot.tick()
    for _ in range(3):
        robot.loop.step(None)
    for _ in range(6):
        robot.tick()
    assert horizons(robot) == [5, 5, 4]


def test_after_a_pause_the_plan_is_made_anew(robot):
    for _ in range(12):
        robot.tick()
    before = len(robot.backend.scored)
    robot.clock.now += PERIOD
    robot.tick()
    assert len(robot.backend.scored) == before  # a period late: the plan goes on
    robot.clock.now += 2 * PERIOD
    assert robot.tick().fault is None
    history, past_actions, *_ = robot.backend.scored[before]
    assert (history.shape[1], past_actions.shape[1]) == (1, 0)


def test_wrong_use_is_said_before_anything_moves(toy):
    policy = toy.make_mpc(iterations=1)
    loop = ControlLoop(policy, ControlConfig(period=PERIOD, stop_action=STOP))
    with pytest.raises(RuntimeError, match=r"called before start\(\)"):
        loop.step(None)
    with pytest.raises(ValueError, match="goal: found none"):
        loop.start(None)
    with pytest.raises(ValueError, match="frames: found uint8 of shape"):
        loop.start(np.zeros((5, 4, 3), np.uint8))
    for stop in [(0.0,), (0.0, 2.0)]:
        with pytest.raises(ValueError, match=r"stop_action: found .* expected 2 numbers within the action bounds"):
            ControlLoop(policy, ControlConfig(period=PERIOD, stop_action=stop))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"period": 0.0}, r"period: found 0.0, expected a positive"),
        ({"period": float("nan")}, "period: found nan"),
        ({"max_age": -1.0}, "max_age: found -1.0"),
        ({"planning_time": 0.2}, r"planning_time: found 0.2, .* at most the period of 0.1 s; plan with a smaller"),
        ({"on_fault": "ignore"}, "on_fault: found 'ignore', expected 'stop' or 'hold'"),
        ({"hold_steps": 0}, "hold_steps: found 0"),
        ({"stop_action": (0.0, float("inf"))}, "stop_action: found .* expected finite"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"ControlConfig.{message}"):
        ControlConfig(**({"period": PERIOD, "stop_action": STOP} | settings))


@pytest.mark.parametrize("wrong", [{"offset": 0}, {"goal": np.zeros((5, 5, 3), np.uint8)}])
def test_a_start_that_is_refused_starts_nothing(robot, wrong):
    for _ in range(3):
        robot.tick()
    arguments = {"goal": robot.world.picture(np.array([-6.0, -5.0])), **wrong}
    with pytest.raises(ValueError, match=r"found"):
        robot.loop.start(**arguments)
    with pytest.raises(RuntimeError, match=r"called before start\(\)"):
        robot.tick()


def test_what_is_held_is_never_older_than_the_pause(toy):
    robot = Robot(toy, on_fault="hold")
    assert np.abs(robot.tick().action).max() > 0
    robot.clock.now += 3600.0
    assert robot.loop.step(None).action.tolist() == list(STOP)


def test_the_stop_action_at_the_end_of_a_run_is_what_is_held_next(toy):
    robot = Robot(toy, on_fault="hold")
    sent = []
    robot.loop.run(robot.sight, sent.append, steps=2, sleep=lambda _: None)
    assert np.abs(sent[0]).max() > 0
    assert robot.loop.step(None).action.tolist() == sent[-1].tolist() == list(STOP)


def test_the_model_is_told_what_was_sent(toy):
    policy = toy.make_mpc(config=MPCConfig(horizon=2, execute_blocks=1), iterations=4, bounded=False)
    clock = Clock()
    loop = ControlLoop(policy, ControlConfig(period=PERIOD, stop_action=STOP), clock=clock)
    world = toy.PointMass()
    loop.start(world.picture(np.array([30.0, 25.0])))
    low, high = policy.planner.backend.spec.action_low, policy.planner.backend.spec.action_high
    sent = []
    for _ in range(toy.SKIP + 1):
        sent.append(loop.step(Sight(frame=world.render(), taken_at=clock())).action)
        world.advance(sent[-1])
        clock.now += PERIOD
    planned, told = policy.last_plan.guesses, policy.planner.backend.scored[-1][1][0, 0]
    assert (np.abs(planned) > high.max()).any()
    np.testing.assert_array_equal(told.reshape(toy.SKIP, -1), sent[: toy.SKIP])
    assert (low <= told.reshape(toy.SKIP, -1)).all()
