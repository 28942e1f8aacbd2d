"""The node on a stand-in for rclpy that is as small as the node's use of it. No ROS 2 has run it."""

import sys
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from jepakit.envs.tworoom import TwoRoom

STOP = [0.0, 0.0]


class Node:
    """What ``rclpy.create_node`` returns."""

    def __init__(self, name):
        self.name, self.topics, self.timers, self.published, self.logged = name, {}, [], [], []

    def create_publisher(self, msg_type, topic, qos_profile):
        return SimpleNamespace(publish=self.published.append)

    def create_subscription(self, msg_type, topic, callback, qos_profile):
        self.topics[topic] = callback

    def create_timer(self, timer_period_sec, callback):
        self.timers.append((timer_period_sec, callback))

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=time.time_ns()))

    def get_logger(self):
        return SimpleNamespace(error=self.logged.append, info=self.logged.append)

    def destroy_node(self):
        self.destroyed = True


@pytest.fixture
def ros(monkeypatch):
    """Modules named as ROS 2's; ``spin`` does what the test has put there."""
    names = ("rclpy", "rclpy.qos", "sensor_msgs", "sensor_msgs.msg", "std_msgs", "std_msgs.msg")
    modules = {name: ModuleType(name) for name in names}
    modules["rclpy.qos"].qos_profile_sensor_data = 10
    modules["sensor_msgs.msg"].Image = SimpleNamespace
    modules["std_msgs.msg"].Float32MultiArray = SimpleNamespace
    rclpy = modules["rclpy"]
    rclpy.nodes = []
    rclpy.init = rclpy.try_shutdown = lambda: None
    rclpy.create_node = lambda name: rclpy.nodes.append(Node(name)) or rclpy.nodes[-1]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return rclpy


def image(picture, *, age=0.0, encoding="rgb8", padding=0):
    height, width = picture.shape[:2]
    rows = np.pad(picture.reshape(height, -1), ((0, 0), (0, padding)), constant_values=7)
    nanoseconds = time.time_ns() - int(age * 1e9)
    stamp = SimpleNamespace(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp),
        **{"height": height, "width": width, "encoding": encoding, "step": rows.shape[1], "data": rows.tobytes()},
    )


def test_it_drives_to_the_goal_and_stops_in_the_end(ros, example, bundle, exact):
    world, goal = TwoRoom(image_size=exact.SIDE), np.array([60.0, 160.0])
    world.reset(options={"state": goal})
    goal_picture = world.render()
    world.reset(options={"state": [60.0, 100.0], "goal": goal})

    def spin(node):
        [(period, tick)] = node.timers
        assert period == pytest.approx(0.5)
        tick()
        assert node.published == []  # no goal yet
        node.topics["goal/image"](image(goal_picture))
        assert node.published.pop().data == STOP
        tick()
        assert node.published.pop().data == STOP  # nothing seen yet
        for step in range(25):
            node.topics["camera/image"](image(world.render()[:, :, ::-1], encoding="bgr8", padding=step % 3))
            tick()
            world.advance(np.array(node.published[-1].data))
        assert world.success(world.state, goal)
        node.topics["camera/image"](image(world.render(), age=1.0))
        tick()
        assert node.published[-1].data == STOP
        node.topics["camera/image"](image(world.render()[:-1]))
        tick()
        assert node.published[-1].data == STOP
        node.topics["camera/image"](image(world.render()))
        tick()
        assert node.published[-1].data != STOP
        raise KeyboardInterrupt

    ros.spin = spin
    example("ros2_node").main([str(bundle.folder), "--rate", "2", "--stop-action", "0,0"])
    [node] = ros.nodes
    assert node.published[-1].data == STOP
    assert node.destroyed
    assert "faults: no_frame 1, stale_frame 1, bad_frame 1" in node.logged[-1]


def test_a_goal_that_does_not_fit_stops_the_robot_and_is_said(ros, example, bundle):
    def spin(node):
        node.topics["goal/image"](image(np.zeros((8, 8, 3), np.uint8)))
        assert node.published.pop().data == STOP
        [(_, tick)] = node.timers
        tick()
        assert node.published == []

    ros.spin = spin
    example("ros2_node").main([str(bundle.folder), "--rate", "2", "--stop-action", "0,0"])
    assert "goal refused: frames: found uint8 of shape (1, 1, 8, 8, 3)" in ros.nodes[0].logged[0]


@pytest.mark.parametrize(
    "change", [{"encoding": "mono8"}, {"step": 95}, {"data": b""}, {"height": 33}, {"encoding": "rgb16"}]
)
def test_messages_that_are_no_pictures_are_refused(example, change):
    message = image(np.zeros((32, 32, 3), np.uint8))
    assert example("ros2_node").decode(message).shape == (32, 32, 3)
    vars(message).update(change)
    assert example("ros2_node").decode(message).size == 0
