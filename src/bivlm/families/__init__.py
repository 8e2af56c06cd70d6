"""The model families: one file each, a declaration; this table is all that the rest of the package knows them
by. docs/adding.md adds one.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from bivlm.errors import InputError
from bivlm.families.base import Family, Stack, last_block
from bivlm.families.idefics3 import IDEFICS3
from bivlm.families.llava import LLAVA
from bivlm.families.llava_next import LLAVA_NEXT
from bivlm.families.llava_onevision import LLAVA_ONEVISION
from bivlm.families.mllama import MLLAMA
from bivlm.families.processors import load_processor
from bivlm.families.qwen2_5_vl import QWEN2_5_VL
from bivlm.families.qwen2_vl import QWEN2_VL
from bivlm.families.smolvlm import SMOLVLM

__all__ = ["FAMILIES", "Family", "Stack", "family_of", "last_block", "load_processor"]

FAMILIES: dict[str, Family] = {
    "llava": LLAVA,
    "llava_next": LLAVA_NEXT,
    "llava_onevision": LLAVA_ONEVISION,
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "mllama": MLLAMA,
    "idefics3": IDEFICS3,
    "smolvlm": SMOLVLM,
}


def family_of(config: PretrainedConfig | str) -> Family:
    """The family of a model, by its config or its `model_type` alone.

    Raises InputError for an architecture that is not supported, and, when the config is given, for a vision
    tower that its family does not know.
    """
    model_type = config if isinstance(config, str) else config.model_type
    family = FAMILIES.get(model_type)
    if family is None:
        raise InputError(
            f"the architecture {model_type!r} is not supported; supported are {', '.join(FAMILIES)}; to add"
            " one: docs/adding.md"
        )
    if (
        not isinstance(config, str)
        and family.vision_types
        and config.vision_config.model_type not in family.vision_types
    ):
        tower, known = config.vision_config.model_type, ", ".join(family.vision_types)
        raise InputError(
            f"{model_type} with the vision tower {tower!r} is not supported; its towers are {known}; to add"
            " one: docs/adding.md"
        )
    return family
