"""Engines that run a world model for the planner; each is imported by its own module, because each needs its own."""
