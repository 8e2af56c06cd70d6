"""The native library of csrc/: loading it, its structures, and the conversion of packed tensors to them."""
