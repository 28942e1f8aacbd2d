"""DINO-WM (arXiv 2411.04983): see README.md beside this file."""
