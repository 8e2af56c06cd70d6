"""The native library of csrc/: loading it, its structures, and the packed tensors as it takes them."""
