"""Losses shared by the world models: pure functions of tensors."""
