"""Kinds of tiny models with experts: the sisters of dense kinds, eight experts in a block, two of them
chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers as T

from tiny.kind import Kind, text
from tiny.kinds import QWEN_GRID, QWEN_TOKENS
from tiny.kinds_today import (
    GEMMA4,
    GLM4V,
    GLM_IDS,
    QWEN3_5,
    QWEN3_VL,
    SIZES,
    gemma4_text,
    gemma4_vision,
    ids,
    qwen3_5_config,
    qwen3_vl_config,
)
from tiny.kinds_today import GEMMA4_IDS as GEMMA4_TOKENS

EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def qwen3_vl_moe_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    dense = qwen3_vl_config(tokenizer, tied).to_dict()
    rope = dense["text_config"]["rope_parameters"]
    more = {"head_dim": 24, "rope_parameters": rope, "decoder_sparse_step": 1, **EXPERTS, **tied}
    return T.Qwen3VLMoeConfig(
        vision_config={**dense["vision_config"], "model_type": "qwen3_vl_moe_vision"},
        text_config=text("qwen3_vl_moe_text", tokenizer, **more),
        **ids(tokenizer, QWEN_TOKENS),
        **tied,
    )


def qwen3_5_moe_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    dense = qwen3_5_config(tokenizer, tied).text_config.to_dict()
    names = ("rope_parameters", "layer_types", "head_dim", *(name for name in dense if "linear_" in name))
    more = {name: dense[name] for name in dict.fromkeys(names)}
    return T.Qwen3_5MoeConfig(
        vision_config={**QWEN_GRID, **SIZES, "num_position_embeddings": 16, "out_hidden_size": 96},
        text_config=text(
            "qwen3_5_moe_text", tokenizer, shared_expert_intermediate_size=32, **more, **EXPERTS
        ),
        **ids(tokenizer, QWEN_TOKENS),
    )


def glm4v_moe_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    """The first block is dense, the others have a shared expert."""
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2], "partial_rotary_factor": 0.5,
    }  # fmt: skip
    routed = {"n_routed_experts": 8, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
    more = {**routed, "first_k_dense_replace": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return T.Glm4vMoeConfig(
        vision_config={
            **QWEN_GRID, **SIZES, "image_size": 32, "out_hidden_size": 96, "model_type": "glm4v_moe_vision",
        },
        text_config=text("glm4v_moe_text", tokenizer, rope_parameters=rope, **more),
        **ids(tokenizer, GLM_IDS),
    )  # fmt: skip


def gemma4_moe_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    """As 26B-A4B: experts next to a dense part, keys that are values in the full blocks."""
    experts = {
        "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 48,
        "attention_k_eq_v": True, "num_global_key_value_heads": 2,
    }  # fmt: skip
    whole = {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision", **experts}
    return T.Gemma4Config(
        vision_config=gemma4_vision(),
        text_config=gemma4_text("gemma4_text", tokenizer, **whole),
        **ids(tokenizer, GEMMA4_TOKENS),
    )


ALL: dict[str, Kind] = {
    "qwen3_vl_moe": replace(
        QWEN3_VL, model_type="qwen3_vl_moe", config=qwen3_vl_moe_config, tied=False, slow=True
    ),
    "qwen3_5_moe": replace(QWEN3_5, model_type="qwen3_5_moe", config=qwen3_5_moe_config),
    "glm4v_moe": replace(GLM4V, model_type="glm4v_moe", config=glm4v_moe_config),
    "gemma4_moe": replace(GEMMA4, config=gemma4_moe_config),
}
