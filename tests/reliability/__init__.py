"""The promises of docs/trust.md, and what tries to break them.

corpus          small weights with all settings of the formats
tensor_mutants  a seed to a changed weight
tensor_verdict  a changed weight to "refused" or "accepted", or a fault
folder_mutants  a seed to a changed model folder
folder_verdict  a changed folder to "refused", "same" or "different", or a fault
fuzz            the command: many seeds, in children that may crash or hang

disk            file-system calls: recorded, or the last thing that a process does
jobs            jobs in child processes, and the same job again
soak            the command: every moment at which a job can die, random kills, races
"""
