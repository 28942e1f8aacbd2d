"""JEPA world models on PyTorch Lightning: train, probe, plan, export, publish."""

__version__ = "0.1.0"
