"""Hostile inputs: mutants of what the package writes, and the rules that every reader keeps for them.

corpus          small weights with all settings of the formats
tensor_mutants  a seed to a changed weight
tensor_verdict  a changed weight to "refused" or "accepted", or a fault
fuzz            the command: many seeds, in children that may crash or hang
"""
