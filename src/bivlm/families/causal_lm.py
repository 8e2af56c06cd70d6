"""Causal language models without vision parts, whose modules are those of a Llama.

    tokens ─► model.embed_tokens ─► model.layers ─► model.norm ─► lm_head

They are packed, loaded and asked like the language part of any family; there is no image. Kept in full
precision: the embeddings and `lm_head`, unless a recipe packs them, and the norms.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

MODEL_TYPES = ("llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")


def causal_lm(model_type: str) -> Family:
    """The family of a causal language model that transformers knows by `model_type`."""
    return Family(
        model_type=model_type,
        stacks=(Stack("language", "model.layers"),),
        full_precision=("lm_head", "model.embed_tokens"),
        image_token_id=lambda config: None,
        prompt="{bos}{question}",
        auto_class="AutoModelForCausalLM",
    )


CAUSAL_LMS: dict[str, Family] = {model_type: causal_lm(model_type) for model_type in MODEL_TYPES}
