"""Packed linears at run time: the module that holds the packed tensors, and the kernels that multiply with
them.
"""
