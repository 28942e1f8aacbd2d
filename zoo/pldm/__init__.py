"""PLDM (arXiv 2502.14819): see README.md beside this file."""
