"""Drive a simulated robot, the dot of Two-Room, to a goal picture with an exported model at a fixed rate.

    python examples/simulated_robot.py runs/lewm/bundle --rate 10

The model must have been trained on Two-Room. Needs ``pip install 'jepakit[onnx,envs]'``, no PyTorch.
"""

from __future__ import annotations

import argparse
import logging
import time

import numpy as np
from numpy.typing import NDArray

from jepakit.envs.tworoom import TwoRoom
from jepakit.export.bundle import Bundle
from jepakit.export.runtime import open_backend
from jepakit.planning import ControlConfig, ControlLoop, Sight

REACH = 80.0  # world units to the goal, less than 25 full steps of 5


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the robot arrived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="folder that `lightning export` wrote")
    parser.add_argument("--engine", choices=("onnx", "tensorrt"), default="onnx")
    parser.add_argument("--rate", type=float, default=10.0, help="actions per second")
    parser.add_argument("--steps", type=int, default=50, help="actions it may take")
    parser.add_argument("--seed", type=int, default=0, help="of start, goal and search")
    parser.add_argument("--blackout", type=int, default=0, help="steps during which the camera gives nothing")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")

    bundle = Bundle.open(options.bundle)
    policy = bundle.policy(open_backend(bundle, engine=options.engine))
    robot = TwoRoom(image_size=bundle.spec.image_size)
    start, goal = draw_task(robot, np.random.default_rng(options.seed))
    robot.reset(options={"state": goal})
    goal_picture, goal_proprio = robot.render(), robot.proprio
    robot.reset(options={"state": start, "goal": goal})

    # Actions are velocities here: zeros are standing still.
    config = ControlConfig(period=1 / options.rate, stop_action=(0.0, 0.0))
    loop = ControlLoop(policy, config)
    loop.start(goal_picture, proprio=goal_proprio, seed=options.seed)
    arrived: list[int] = []
    done = 0

    def camera() -> Sight | None:
        if 5 <= done < 5 + options.blackout:
            return None
        return Sight(frame=robot.render(), taken_at=time.monotonic(), proprio=robot.proprio)

    def send(action: NDArray[np.float32]) -> None:
        nonlocal done
        robot.advance(action)
        done += 1
        if robot.success(robot.state, goal):
            arrived.append(done)

    summary = loop.run(camera, send, steps=options.steps)
    print(f"from {start.round(1).tolist()} to {goal.round(1).tolist()}, at {robot.state.round(1).tolist()} in the end")
    print(f"arrived at step {arrived[0]}" if arrived else f"did not arrive in {options.steps} steps")
    print(summary)
    return 0 if arrived else 1


def draw_task(robot: TwoRoom, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw start and goal in one room, within reach of each other, and not met from the start."""
    while True:
        start, goal = robot.sample_state(rng), robot.sample_state(rng)
        same_room = (start[0] < 112) == (goal[0] < 112)
        if same_room and np.linalg.norm(start - goal) < REACH and not robot.success(start, goal):
            return start, goal


if __name__ == "__main__":
    raise SystemExit(main())
