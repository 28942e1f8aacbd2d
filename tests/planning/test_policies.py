import numpy as np
import pytest

from jepakit.planning import Assignment, RandomPolicy, Scripted, StayPolicy


def assign(count, first=0):
    state = np.zeros(2)
    frame = np.zeros((4, 4, 3), np.uint8)
    same = {"state": state, "goal_state": state + 1, "goal_frame": frame, "goal_proprio": state}
    return [Assignment(**same, rng=np.random.default_rng([1, first + index])) for index in range(count)]


def draws(policy, count, steps, first=0):
    policy.reset(assign(count, first), budget=steps)
    return np.stack([policy.act([None] * count, range(count)) for _ in range(steps)])


def test_uniform_actions_fill_the_bounds():
    low, high = np.array([-1.0, 2.0]), np.array([1.0, 6.0])
    actions = draws(RandomPolicy.uniform(low, high), 4, 2000).reshape(-1, 2)
    assert (actions >= low).all()
    assert (actions <= high).all()
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 4.0], atol=0.05)
    np.testing.assert_allclose(actions.std(axis=0), (high - low) / np.sqrt(12), atol=0.03)


def test_normal_actions_have_the_statistics_of_the_data():
    actions = draws(RandomPolicy.normal([0.1, -0.2], [0.2, 0.4]), 4, 2000).reshape(-1, 2)
    np.testing.assert_allclose(actions.mean(axis=0), [0.1, -0.2], atol=0.02)
    np.testing.assert_allclose(actions.std(axis=0), [0.2, 0.4], atol=0.02)


def test_random_actions_of_a_task_do_not_depend_on_its_neighbours():
    policy = RandomPolicy.uniform([-1.0], [1.0])
    together = draws(policy, 3, 5)
    np.testing.assert_array_equal(draws(policy, 1, 5, first=2)[:, 0], together[:, 2])
    policy.reset(assign(3), budget=5)
    np.testing.assert_array_equal(policy.act([None], [2])[0], together[0, 2])


def test_bounds_and_statistics_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="action bounds: found low"):
        RandomPolicy.uniform([0.0], [np.inf])
    with pytest.raises(ValueError, match="action statistics: found mean"):
        RandomPolicy.normal([0.0], [0.0])


def test_stay_does_nothing():
    np.testing.assert_array_equal(draws(StayPolicy(action_dim=3), 2, 4), np.zeros((4, 2, 3), np.float32))


def test_scripted_policies_get_their_own_task_and_see_the_state():
    class Controller:
        def reset(self, state, goal, rng):
            self.goal, self.noise = goal, rng.normal()

        def act(self, state):
            return self.goal - state + self.noise

    class View:
        def __init__(self, state):
            self.state = np.array(state)

    policy = Scripted(Controller)
    policy.reset(assign(3), budget=1)
    actions = policy.act([View([0.5, 0.0]), View([0.0, -1.0])], [0, 2])
    noise = np.array([np.random.default_rng([1, index]).normal() for index in (0, 2)])
    np.testing.assert_allclose(actions, np.array([[0.5, 1.0], [1.0, 2.0]]) + noise[:, None], rtol=1e-6)
