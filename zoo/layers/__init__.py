"""Layers shared by the world models; each is written once."""
