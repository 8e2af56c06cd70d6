"""Packed weights in a model: the modules that hold them, the torch operators, the hook into transformers."""
