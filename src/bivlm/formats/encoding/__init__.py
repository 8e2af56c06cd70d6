"""The encodings that formats use for their fields: symbols and streams of bits, numbers of 8, 16 or 32 bits,
positions, rotations, tables, and the checks of tensors that are read. None of these is a format.
"""
