"""Models that are stored without a language head, as embedding models are ("Qwen2VLModel" in config.json):
the same modules, one step nearer to the root.

    model.language_model.layers ─► language_model.layers
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from bivlm.families.base import Family

INSIDE = "model."  # how the base is called in a model with a head


def is_headless(config: PretrainedConfig) -> bool:
    """Whether the config of a model says that it has no head."""
    named = MODEL_MAPPING_NAMES.get(config.model_type)
    return isinstance(named, str) and list(getattr(config, "architectures", None) or ()) == [named]


def without_head(family: Family) -> Family:
    """The family of the same architecture without its head."""
    return replace(
        family,
        stacks=tuple(replace(stack, path=stack.path.removeprefix(INSIDE)) for stack in family.stacks),
        full_precision=tuple(pattern.removeprefix(INSIDE) for pattern in family.full_precision),
        auto_class="AutoModel",
    )
