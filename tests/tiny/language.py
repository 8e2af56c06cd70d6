"""Tiny language models without a vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tiny.kinds import ALL


def experts(name: str = "num_experts", **more: Any) -> dict[str, Any]:
    """Eight experts, two of which are chosen."""
    return {name: 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, **more}


SIZES = {  # what some architectures need in addition: kinds of blocks, widths of their own
    "gemma4_text": {
        "head_dim": 16,
        "global_head_dim": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "sliding_window": 8,
        "vocab_size_per_layer_input": 512,
        "hidden_size_per_layer_input": 16,
        "per_layer_config": {},
    },
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "head_dim": 8,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        **experts("n_routed_experts", n_shared_experts=1),
    },
    "ernie4_5_moe": experts("moe_num_experts", moe_k=2, moe_layer_start_index=0, moe_num_shared_experts=1),
    "glm4_moe": {
        "head_dim": 16,
        "first_k_dense_replace": 1,
        **experts("n_routed_experts", n_shared_experts=1),
    },
    "gpt_oss": {
        "head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 8,
        **experts("num_local_experts"),
    },
    "granitemoe": experts("num_local_experts"),
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "ministral": {"head_dim": 16},
    "minicpm3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "head_dim": 8,
    },
    "mixtral": experts("num_local_experts"),
    "olmoe": experts(),
    "qwen2_moe": experts(shared_expert_intermediate_size=48),
    "qwen3_moe": {"head_dim": 16, **experts()},
    "qwen3_5_moe_text": {
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        **experts(shared_expert_intermediate_size=48),
    },
    "qwen3_5_text": {
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
}


TIED = ("cohere", "gemma", "gemma2", "gemma3_text", "gemma4_text", "qwen3", "vaultgemma")


def tiny_language_config(model_type: str, layers: int = 3) -> transformers.PretrainedConfig:
    """A config of a few small blocks, for the tokenizer of tiny LLaVA."""
    tokenizer = ALL["llava"].tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": model_type in TIED,
        **SIZES.get(model_type, {}),
    }
    return transformers.AutoConfig.for_model(model_type, **sizes)


def tiny_language_model(
    model_type: str, folder: Path, dtype: torch.dtype = torch.float32, layers: int = 3
) -> Path:
    """A seeded member of a family with its tokenizer, saved in `folder`."""
    tokenizer = ALL["llava"].tokenizer()
    torch.manual_seed(0)
    config = tiny_language_config(model_type, layers)
    transformers.AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
