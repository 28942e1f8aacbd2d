"""Macro-actions: a coarse time scale on a frozen world model's latents."""
