"""A V-JEPA-style world model (arXiv 2404.08471, 2506.09985): see README.md beside this file."""
