"""The building blocks of methods: error feedback, fitting grids and levels, binarizing, searching, refitting.
None of them is a method.
"""
