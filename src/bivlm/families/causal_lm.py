"""Causal language models without vision parts, whose modules are those of a Llama.

    tokens ─► model.embed_tokens ─► model.layers ─► model.norm ─► lm_head

They are packed, loaded and asked like the language part of any family; there is no image. The experts of a
mixture are linears of their own (experts.py).

Kept in full precision: the embeddings and `lm_head`, unless a recipe packs them, and the norms. Blocks of
Qwen3.5 with linear attention also keep `in_proj_a` and `in_proj_b`, which have one row per head and set how
fast the head forgets, through an exponential. Gemma 4 keeps the projection that feeds all its blocks, and the
small models' embeddings per layer.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

MODEL_TYPES = (
    "apertus", "arcee", "cohere", "cohere2", "cwm", "diffllama", "ernie4_5", "exaone4", "gemma", "gemma2",
    "gemma3_text", "gemma4_text", "glm", "glm4", "granite", "granite_swa", "helium", "hunyuan_v1_dense",
    "hyperclovax", "jais2", "lfm2", "llama", "minicpm3", "ministral", "ministral3", "mistral", "nanochat",
    "nemotron", "olmo", "olmo2", "olmo3", "persimmon", "phi", "phi3", "qwen2", "qwen3", "qwen3_5_text",
    "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma",
)  # fmt: skip
EXPERT_TYPES = (
    "deepseek_v3", "ernie4_5_moe", "glm4_moe", "gpt_oss", "granitemoe", "mixtral", "olmoe", "qwen2_moe",
    "qwen3_5_moe_text", "qwen3_moe",
)  # fmt: skip
ALSO_KEPT: dict[str, tuple[str, ...]] = {
    "gemma4_text": ("model.embed_tokens_per_layer", "model.per_layer_model_projection"),
    "qwen3_5_moe_text": ("model.layers.*.linear_attn.in_proj_a", "model.layers.*.linear_attn.in_proj_b"),
    "qwen3_5_text": ("model.layers.*.linear_attn.in_proj_a", "model.layers.*.linear_attn.in_proj_b"),
}


def causal_lm(model_type: str) -> Family:
    """The family of a causal language model that transformers knows by `model_type`."""
    return Family(
        model_type=model_type,
        stacks=(Stack("language", "model.layers"),),
        full_precision=("lm_head", "model.embed_tokens", *ALSO_KEPT.get(model_type, ())),
        image_token_id=lambda config: None,
        prompt="{bos}{question}",
        auto_class="AutoModelForCausalLM",
    )


CAUSAL_LMS: dict[str, Family] = {
    model_type: causal_lm(model_type) for model_type in (*MODEL_TYPES, *EXPERT_TYPES)
}
