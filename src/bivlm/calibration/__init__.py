"""Running a model part by part: what reaches each block, what each linear receives, and the walk that
quantizes along the way.
"""
