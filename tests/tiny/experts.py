"""Tiny models whose checkpoints transformers converts while loading, or whose blocks hold fused experts, each
with a family of its two stacks; without processors.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers

from bivlm.families import Family, Stack
from tiny.kind import draw

IMAGE = 390
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": 391,
    "vision_start_token_id": 392,
    "vision_end_token_id": 393,
}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 96,
    "num_position_embeddings": 16,
}
TOWER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def text(**more: Any) -> dict[str, Any]:
    """Two blocks of width 96 and a vocabulary of 400."""
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 400,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {**sizes, **more}


def experts(name: str = "num_experts", **more: Any) -> dict[str, Any]:
    return {name: 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, **more}


def mrope(section: list[int], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section, "mrope_interleaved": True}
    return {**rope, **more}


MOLMO2 = {
    "image_start_token_id": 391,
    "low_res_image_start_token_id": 392,
    "image_end_token_id": 393,
    "image_patch_id": IMAGE,
    "frame_start_token_id": 394,
    "frame_end_token_id": 395,
    "text_config": text(head_dim=24, additional_vocab_size=16),
    "vision_config": {
        **TOWER,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "image_size": [32, 32],
        "patch_size": 8,
        "num_position_embeddings": 16,
    },
    "adapter_config": {
        "vision_feature_layer": [1, 0],
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "intermediate_size": 96,
        "text_hidden_size": 96,
    },
}
QWEN3_VL_MOE = {
    **QWEN_IDS,
    "text_config": text(
        head_dim=24, rope_parameters=mrope([4, 4, 4]), **experts(num_local_experts=8, decoder_sparse_step=1)
    ),
    "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0, 1]},
}
QWEN3_5_MOE = {
    **QWEN_IDS,
    "text_config": text(
        head_dim=32,
        rope_parameters=mrope([2, 1, 1], partial_rotary_factor=0.25),
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        **experts(shared_expert_intermediate_size=48),
    ),
    "vision_config": QWEN_VISION,
}
KIMI_K25 = {
    **QWEN_IDS,
    "projection_hidden_size": 64,
    "text_config": text(
        model_type="deepseek_v3",
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        v_head_dim=16,
        qk_nope_head_dim=16,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        num_key_value_heads=4,
        head_dim=8,
        **experts("n_routed_experts", n_shared_experts=1),
    ),
    "vision_config": {**TOWER, "patch_size": 8, "pos_emb_height": 8, "pos_emb_width": 8, "pos_emb_time": 4},
}
DEEPSEEK_OCR2 = {
    "image_token_id": IMAGE,
    "text_config": text(
        num_key_value_heads=4,
        head_dim=24,
        mlp_layer_types=["dense", "sparse"],
        **experts("n_routed_experts", n_shared_experts=1),
    ),
    "vision_config": {
        "sam_config": {
            "hidden_size": 64,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 96,
            "downsample_channels": [48, 96],
        },
        "encoder_config": text(),
    },
}
GEMMA4 = {
    "image_token_id": IMAGE,
    "video_token_id": 391,
    "boi_token_id": 392,
    "eoi_token_id": 393,
    "audio_token_id": 394,
    "boa_token_id": 395,
    "eoa_token_index": 396,
    "text_config": text(
        head_dim=24,
        global_head_dim=32,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        vocab_size_per_layer_input=400,
        hidden_size_per_layer_input=0,
        per_layer_config={},
        enable_moe_block=True,
        num_experts=8,
        top_k_experts=2,
        moe_intermediate_size=48,
        attention_k_eq_v=True,
        num_global_key_value_heads=2,
    ),
    "vision_config": {
        **TOWER,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "patch_size": 8,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
        "default_output_length": 16,
    },
}
LLAMA4 = {
    "image_token_index": IMAGE,
    "boi_token_index": 391,
    "eoi_token_index": 392,
    "text_config": text(
        head_dim=24,
        intermediate_size_mlp=160,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=2,
        attention_chunk_size=8,
        no_rope_layers=None,
        layer_types=None,
        moe_layers=None,
    ),
    "vision_config": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "vision_output_dim": 64,
        "image_size": 32,
        "patch_size": 8,
        "projector_input_dim": 64,
        "projector_output_dim": 64,
        "pixel_shuffle_ratio": 0.5,
    },
}
# config, blocks of the vision tower, blocks of the language model
KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "molmo2": (MOLMO2, "model.vision_tower.layers", "model.language_model.layers"),
    "qwen3_vl_moe": (QWEN3_VL_MOE, "model.visual.blocks", "model.language_model.layers"),
    "qwen3_5_moe": (QWEN3_5_MOE, "model.visual.blocks", "model.language_model.layers"),
    "kimi_k25": (KIMI_K25, "model.vision_tower.layers", "model.language_model.layers"),
    "deepseek_ocr2": (DEEPSEEK_OCR2, "model.vision_tower.sam_encoder.layers", "model.language_model.layers"),
    "gemma4": (GEMMA4, "model.vision_tower.encoder.layers", "model.language_model.layers"),
    "llama4": (LLAMA4, "vision_model.model.layers", "language_model.model.layers"),
}
EXPERTS = tuple(name for name in KINDS if name != "molmo2")


def expert_family(kind: str, *full_precision: str) -> Family:
    """The two stacks of a kind; what `full_precision` names stays."""
    _, vision, language = KINDS[kind]
    return Family(
        kind, (Stack("vision", vision), Stack("language", language)), full_precision, lambda config: IMAGE
    )


def expert_model(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A seeded member, saved in `folder` by save_pretrained, which converts it back to the hub's form."""
    config = transformers.CONFIG_MAPPING[kind](**copy.deepcopy(KINDS[kind][0]))
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name, parameter, generator))
    model.save_pretrained(folder)
    return folder
