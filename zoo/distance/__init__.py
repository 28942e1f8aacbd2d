"""A learned distance on a frozen world model's latents (arXiv 2605.22164): see README.md beside this file."""
