"""The model families: one file each, a declaration. The rest of the package knows families only by this
table, by other packages (bivlm.plugins) and by `use`. docs/adding.md shows how to add one.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PretrainedConfig

from bivlm.errors import InputError
from bivlm.families import remote_code
from bivlm.families.aya_vision import AYA_VISION
from bivlm.families.base import Family, Stack
from bivlm.families.causal_lm import CAUSAL_LMS
from bivlm.families.cohere2_vision import COHERE2_VISION
from bivlm.families.found.record import recorded_family
from bivlm.families.gemma3 import GEMMA3
from bivlm.families.gemma4 import GEMMA4
from bivlm.families.gemma4_unified import GEMMA4_UNIFIED
from bivlm.families.glm4v import GLM4V, GLM4V_MOE
from bivlm.families.glm46v import GLM46V
from bivlm.families.glm_ocr import GLM_OCR
from bivlm.families.granite4_vision import GRANITE4_VISION
from bivlm.families.headless import is_headless, without_head
from bivlm.families.idefics2 import IDEFICS2
from bivlm.families.idefics3 import IDEFICS3
from bivlm.families.internvl import INTERNVL
from bivlm.families.lfm2_vl import LFM2_VL
from bivlm.families.lighton_ocr import LIGHTON_OCR
from bivlm.families.llava import LLAVA
from bivlm.families.llava_next import LLAVA_NEXT
from bivlm.families.llava_onevision import LLAVA_ONEVISION
from bivlm.families.minicpmv4_6 import MINICPMV4_6
from bivlm.families.mistral3 import MISTRAL3
from bivlm.families.mllama import MLLAMA
from bivlm.families.molmo2 import MOLMO2
from bivlm.families.ovis2 import OVIS2
from bivlm.families.paddleocr_vl import PADDLEOCR_VL
from bivlm.families.paligemma import PALIGEMMA
from bivlm.families.processors import load_processor, processor_of, tokenizer_of
from bivlm.families.qwen2_5_vl import QWEN2_5_VL
from bivlm.families.qwen2_vl import QWEN2_VL
from bivlm.families.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from bivlm.families.qwen3_vl import QWEN3_VL, QWEN3_VL_MOE
from bivlm.families.smolvlm import SMOLVLM
from bivlm.families.vipllava import VIPLLAVA
from bivlm.families.vision_only import VISION_ONLY
from bivlm.plugins import Table

__all__ = [
    "FAMILIES",
    "Family",
    "Stack",
    "declared_family",
    "family_names",
    "family_of",
    "known_family",
    "load_processor",
    "processor_of",
    "remember",
    "tokenizer_of",
    "use",
]

FAMILIES: dict[str, Family] = {
    "llava": LLAVA,
    "llava_next": LLAVA_NEXT,
    "llava_onevision": LLAVA_ONEVISION,
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "mllama": MLLAMA,
    "idefics3": IDEFICS3,
    "smolvlm": SMOLVLM,
    "paligemma": PALIGEMMA,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL_MOE,
    "qwen3_5": QWEN3_5,
    "qwen3_5_moe": QWEN3_5_MOE,
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "gemma4_unified": GEMMA4_UNIFIED,
    "internvl": INTERNVL,
    "mistral3": MISTRAL3,
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V_MOE,
    "glm46v": GLM46V,
    "glm_ocr": GLM_OCR,
    "lfm2_vl": LFM2_VL,
    "paddleocr_vl": PADDLEOCR_VL,
    "aya_vision": AYA_VISION,
    "cohere2_vision": COHERE2_VISION,
    "granite4_vision": GRANITE4_VISION,
    "minicpmv4_6": MINICPMV4_6,
    "molmo2": MOLMO2,
    "ovis2": OVIS2,
    "idefics2": IDEFICS2,
    "lighton_ocr": LIGHTON_OCR,
    "vipllava": VIPLLAVA,
}


def _refusal(name: str, loaded: object) -> str:
    if not isinstance(loaded, Family):
        return "is no bivlm.families.Family"
    return (
        "" if loaded.model_type == name else f"is for {loaded.model_type!r}, not for its entry point's name"
    )


_TABLE: Table[Family] = Table("bivlm.families", "family", {**FAMILIES, **CAUSAL_LMS, **VISION_ONLY}, _refusal)
USED: dict[str, Family] = {}  # declared by `use`
FOUND: dict[str, Family] = {}  # by the fingerprint of a config: found in this process


def use(family: Family) -> None:
    """Declare a family for this process: from now on it is used for models of its `model_type`, even if bivlm
    has another declaration.
    """
    if not isinstance(family, Family):
        raise InputError(f"{family!r} is no bivlm.families.Family; docs/adding.md shows one")
    USED[family.model_type] = family


def family_names() -> list[str]:
    """The architectures that can be used, sorted: built in, from other packages, and declared by `use`."""
    return sorted({*_TABLE.names(), *USED})


def declared_family(config: PretrainedConfig) -> Family | None:
    """The declaration of a model's architecture and of its vision tower, without the language head if the
    config names the class that has none; None if there is none.
    """
    found = USED.get(config.model_type) or _TABLE.named(config.model_type)
    if found is not None and found.vision_types:
        tower = config.vision_config.model_type
        found = next((one for one in (found, *found.variants) if tower in one.vision_types), None)
    headless = found is not None and found.reads_images and found.answers and is_headless(config)
    return without_head(found) if found is not None and headless else found


def known_family(config: PretrainedConfig) -> Family | None:
    """The family of a model that is declared, recorded in the config of a packed model, or was found earlier
    in this process; None for every other.
    """
    return declared_family(config) or recorded_family(config) or FOUND.get(_fingerprint(config))


def remember(config: PretrainedConfig, family: Family) -> None:
    """Keep the found family of a model for this process: `family_of` its config gives it."""
    FOUND[_fingerprint(config)] = family


def _fingerprint(config: PretrainedConfig) -> str:
    """What decides the modules of a model and its tokens: types, numbers and lists of its config, whatever
    computes it.
    """

    def described(node: PretrainedConfig) -> dict[str, Any]:
        parts: dict[str, Any] = {"model_type": node.model_type}
        if not type(node).__module__.startswith("transformers."):
            parts["class"] = type(node).__module__  # the code of a folder, by the hash of its files
        for name, value in vars(node).items():
            if isinstance(value, PretrainedConfig):
                parts[name] = described(value)
            elif type(value) is int or isinstance(value, list | tuple):
                parts[name] = value
        return parts

    return json.dumps(described(config), sort_keys=True, default=str)


def family_of(config: PretrainedConfig | str, family: Family | None = None) -> Family:
    """The family of a model, by its config or its `model_type` alone; `family` itself if it is given and
    matches the model. Given the config, it may be declared, recorded in the config of a packed model, or
    found earlier in this process (`bivlm.families.found` finds it in a folder).

    Raises InputError for an architecture that is not supported, for a family of another architecture, and,
    if the config is given, for a vision tower that the family does not know.
    """
    model_type = config if isinstance(config, str) else config.model_type
    if family is not None and family.model_type != model_type:
        raise InputError(
            f"the model is a {model_type!r} and the family is for {family.model_type!r}; give the family of"
            " the model"
        )
    declared = USED.get(model_type) or _TABLE.named(model_type)
    found = family or (declared if isinstance(config, str) else known_family(config))
    if found is None and declared is not None and not isinstance(config, str):
        known = ", ".join(name for one in (declared, *declared.variants) for name in one.vision_types)
        raise InputError(
            f"{model_type} with the vision tower {config.vision_config.model_type!r} is not supported; its"
            f" towers are {known}; to add one: docs/adding.md"
        )
    if found is None and (advice := remote_code.advice(model_type)) is not None:
        raise InputError(advice)
    if found is None:
        raise InputError(
            f"the architecture {model_type!r} is not supported; supported are {', '.join(family_names())}; to"
            " add one: docs/adding.md"
        )
    return found
