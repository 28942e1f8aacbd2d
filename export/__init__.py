"""Taking a world model out of PyTorch, and the engines that run it for the planner."""
