"""A ROS 2 node that plans with an exported model: pictures in, raw actions out.

    python examples/ros2_node.py runs/model/bundle --rate 10 --stop-action 0,0

Subscribes to ``camera/image`` and ``goal/image`` (sensor_msgs/Image, rgb8 or bgr8; a goal starts or restarts the loop)
and, where the model feels its robot, to ``proprio`` and ``goal/proprio`` (std_msgs/Float32MultiArray; the goal's before
its picture). Publishes ``action`` (std_msgs/Float32MultiArray) once per period. Turning an action into what the robot
understands is the next node's task, and so is stopping when no action comes.

Never run with a real ROS 2: its test brings a small stand-in for rclpy.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepakit.export.bundle import Bundle
from jepakit.export.runtime import open_backend
from jepakit.planning import ControlConfig, ControlLoop, Sight


class PlannerNode:
    """Connects a :class:`jepakit.planning.ControlLoop` to the topics of a ROS 2 node."""

    def __init__(self, node: Any, loop: ControlLoop, *, offset: int | None = None) -> None:  # noqa: ANN401
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image
        from std_msgs.msg import Float32MultiArray

        self.node, self.loop, self.offset = node, loop, offset
        self.side = loop.policy.planner.backend.spec.image_size
        self.sight: Sight | None = None
        self.proprio: NDArray[np.float32] | None = None
        self.goal_proprio: NDArray[np.float32] | None = None
        self.driving = False
        self._message = Float32MultiArray
        self._actions = node.create_publisher(Float32MultiArray, "action", 1)
        node.create_subscription(Image, "camera/image", self.see, qos_profile_sensor_data)
        node.create_subscription(Image, "goal/image", self.take_goal, 1)
        node.create_subscription(Float32MultiArray, "proprio", self.feel, qos_profile_sensor_data)
        node.create_subscription(Float32MultiArray, "goal/proprio", self.take_goal_proprio, 1)
        node.create_timer(loop.config.period, self.act)

    def see(self, message: Any) -> None:  # noqa: ANN401 - sensor_msgs/Image
        """Keep the newest picture, dated by the loop's clock: now, less the message's age by ROS's."""
        stamp = message.header.stamp
        age = self.node.get_clock().now().nanoseconds * 1e-9 - (stamp.sec + stamp.nanosec * 1e-9)
        self.sight = Sight(frame=decode(message), taken_at=time.monotonic() - age, proprio=self.proprio)

    def feel(self, message: Any) -> None:  # noqa: ANN401 - std_msgs/Float32MultiArray
        """Keep the newest proprioception for the next picture."""
        self.proprio = np.array(message.data, np.float32)

    def take_goal_proprio(self, message: Any) -> None:  # noqa: ANN401 - std_msgs/Float32MultiArray
        """Keep the goal's proprioception for its picture."""
        self.goal_proprio = np.array(message.data, np.float32)

    def take_goal(self, message: Any) -> None:  # noqa: ANN401 - sensor_msgs/Image
        """Start driving to a goal; one that does not fit is reported and stops the robot."""
        self.stop()
        try:
            self.loop.start(decode(message), proprio=self.goal_proprio, offset=self.offset)
        except ValueError as error:
            self.node.get_logger().error(f"goal refused: {error}")
            return
        self.driving = True

    def act(self) -> None:
        """Publish the next action, once there is a goal."""
        if self.driving:
            self._publish(self.loop.step(self.sight).action)

    def stop(self) -> None:
        """Publish the stop action and wait for a goal."""
        self.driving = False
        self._publish(np.array(self.loop.config.stop_action, np.float32))

    def _publish(self, action: NDArray[np.float32]) -> None:
        self._actions.publish(self._message(data=action.tolist()))


def decode(message: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - sensor_msgs/Image
    """Return the picture ``(h, w, 3)`` in RGB; one of another encoding or length comes back empty, to be refused.

    The camera must publish the size and crop that the model was trained with; nothing is scaled here.
    """
    rows = np.frombuffer(bytes(message.data), np.uint8)
    if message.encoding not in ("rgb8", "bgr8") or message.step < 3 * message.width:
        return np.empty((0, 0, 3), np.uint8)
    if rows.size != message.height * message.step:
        return np.empty((0, 0, 3), np.uint8)
    picture = rows.reshape(message.height, message.step)[:, : 3 * message.width].reshape(
        message.height, message.width, 3
    )
    return picture if message.encoding == "rgb8" else picture[:, :, ::-1]


def main(arguments: list[str] | None = None) -> None:
    """Spin until interrupted; the last action published is the stop action."""
    import rclpy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="folder that `lightning export` wrote")
    parser.add_argument("--engine", choices=("onnx", "tensorrt"), default="onnx")
    parser.add_argument("--rate", type=float, required=True, help="raw actions per second, as in training")
    parser.add_argument("--stop-action", required=True, help="raw action that makes the robot stand still: 0,0")
    parser.add_argument("--offset", type=int, help="actions to a goal, for planners that count them")
    options = parser.parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    config = ControlConfig(
        period=1 / options.rate, stop_action=tuple(float(number) for number in options.stop_action.split(","))
    )
    loop = ControlLoop(bundle.policy(open_backend(bundle, engine=options.engine)), config)
    rclpy.init()
    node = rclpy.create_node("jepa_planner")
    planner = PlannerNode(node, loop, offset=options.offset)
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        planner.stop()
        node.get_logger().info(str(loop.summary()))
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
