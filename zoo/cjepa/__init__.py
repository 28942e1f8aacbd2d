"""C-JEPA (arXiv 2602.11389): see README.md beside this file."""
