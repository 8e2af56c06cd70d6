"""Kernels: the products with packed weights, by format and device."""
