"""LeWM (arXiv 2603.19312): see README.md beside this file."""
