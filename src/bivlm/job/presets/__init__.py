"""The presets, one TOML file each (bivlm.job.recipe reads them), and the default preset."""

DEFAULT_PRESET = "trellis-2"  # the best of docs/results at two bits
