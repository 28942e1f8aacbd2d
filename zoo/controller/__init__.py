"""A controller on a frozen world model (arXiv 2605.08732): see README.md beside this file."""
