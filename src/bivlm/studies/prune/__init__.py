"""Prunings side by side: accuracy, fidelity, time and memory against the share of visual tokens kept."""
