"""The presets, one TOML file each (bivlm.job.recipe reads them), and which of them is meant where none is
named.
"""

DEFAULT_PRESET = "trellis-2"  # the best of docs/results at two bits
