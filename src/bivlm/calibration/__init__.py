"""The inputs of each block and each linear on calibration data, and the corrections that follow from them.
Nothing here writes a file.
"""
