"""Kernels: what multiplies with a packed weight, by format and device."""
