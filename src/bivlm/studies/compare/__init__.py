"""Presets side by side: accuracy and fidelity against true bits."""
