"""The presets, one TOML file each (bivlm.job.recipe reads them), the default preset, and what can be said of
them without importing a quantizer.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

DEFAULT_PRESET = "trellis-2"  # the best of docs/results at two bits
COMPARED = ("trellis-1", "trellis-2", "trellis-3", "gptq-2", "rtn-3")  # `bivlm compare` without --presets
_FILES = resources.files("bivlm").joinpath("job", "presets")


@dataclass(frozen=True)
class Preset:
    """What a preset says of itself: the true bits per weight that it is meant to take, None if it has no
    target, and whether it calibrates on data.
    """

    name: str
    true_bits: float | None
    needs_data: bool
    description: str


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _FILES.iterdir() if file.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML file of a preset."""
    return _FILES.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def presets() -> list[Preset]:
    """All presets, sorted by name."""
    contents = [(name, tomllib.loads(preset_text(name))) for name in preset_names()]
    return [
        Preset(name, content.get("true_bits"), content["needs_data"], content["description"])
        for name, content in contents
    ]
