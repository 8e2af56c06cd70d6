"""What the formats store their fields with: symbols and streams of bits, numbers of 8, 16 or 32 bits,
positions, rotations, tables, and the checks of what is read. None of these is a format.
"""
