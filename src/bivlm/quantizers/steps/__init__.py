"""The steps that methods are made of, none of which is a method: feeding errors on, fitting grids and levels,
binarizing, searching, refitting.
"""
