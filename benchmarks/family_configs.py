"""Configs of the model types whose default config makes no model that runs, as data: parts that must fit
together, and sizes that have no default. Values are small; they mean nothing else.
"""

from __future__ import annotations

from typing import Any

IMAGE = 390
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]}
GLM_ROPE = {**MROPE, "mrope_section": [2, 2, 2], "partial_rotary_factor": 0.5}
INTERLEAVED = {**MROPE, "mrope_interleaved": True}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 391,
    "vision_start_token_id": 392,
    "vision_end_token_id": 393,
}
GLM_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 391,
    "image_start_token_id": 392,
    "image_end_token_id": 393,
    "video_start_token_id": 394,
    "video_end_token_id": 395,
}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


def text(**fields: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 400,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return {**sizes, **fields}


def tower(**fields: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {**sizes, "image_size": 32, "patch_size": 8, **fields}


def siglip(**fields: Any) -> dict[str, Any]:
    return tower(model_type="siglip_vision_model", vision_use_head=False, **fields)


def grid_tower(**fields: Any) -> dict[str, Any]:
    sizes = {"depth": 4, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "patch_size": 8}
    merge = {"spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 96}
    return {**sizes, **merge, "num_position_embeddings": 16, **fields}


GLM_TOWER = {**grid_tower(depth=3, image_size=32)}
del GLM_TOWER["num_position_embeddings"]
QWEN3_5_TEXT = text(
    head_dim=32,
    rope_parameters={**INTERLEAVED, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25},
    layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    **LINEAR_ATTENTION,
)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GEMMA4_TEXT = text(
    head_dim=24,
    global_head_dim=32,
    **SLIDING,
    vocab_size_per_layer_input=400,
    hidden_size_per_layer_input=16,
)
GEMMA4_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 391,
    "boi_token_id": 392,
    "eoi_token_id": 393,
    "audio_token_id": 394,
    "boa_token_id": 395,
    "eoa_token_index": 396,
}
QFORMER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
OPT_TEXT = {
    "model_type": "opt",
    "hidden_size": 96,
    "ffn_dim": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 400,
    "word_embed_proj_dim": 96,
    "max_position_embeddings": 512,
}
VQ = {
    "embed_dim": 32,
    "num_embeddings": 64,
    "latent_channels": 32,
    "resolution": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 2],
    "num_res_blocks": 1,
}

CHAMELEON_TOKENS = {  # its digits are letters
    "<image>": 299,
    **{f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(code))}Z": 300 + code for code in range(64)},
}

GLM_WIDE_ROPE = {**GLM_ROPE, "mrope_section": [8, 12, 12]}
SIGLIP_SO400M = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 364,
    "patch_size": 14,
    "vision_use_head": False,
}

# defaults of which only the parts do not fit together: the fields that make them fit
FITTED: dict[str, dict[str, Any]] = {
    "aria": {"vision_config": {"model_type": "idefics3_vision", "image_size": 490, "patch_size": 14}},
    "aya_vision": {"vision_config": {**SIGLIP_SO400M}},
    "cosmos3_omni": {"vision_config": {"out_hidden_size": 4096}},
    "exaone4_5": {"vision_config": {"out_hidden_size": 4096}},
    "gemma3": {"mm_tokens_per_image": 49},
    "glm46v": {"text_config": {"model_type": "glm4v_text", "rope_parameters": GLM_WIDE_ROPE}},
    "glm4v": {"text_config": {"rope_parameters": GLM_WIDE_ROPE}},
    "glm5_next": {"vision_config": {"out_hidden_size": 4096}},
    "glmga": {"text_config": {"model_type": "glm4v_text", "rope_parameters": GLM_WIDE_ROPE}},
    "idefics3": {"vision_config": {"image_size": 256}},
    "qwen2_5_vl": {"vision_config": {"out_hidden_size": 8192}},
    "qwen2_vl": {"vision_config": {"hidden_size": 8192}},
    "qwen3_5": {"vision_config": {"out_hidden_size": 4096}},
    "qwen3_5_moe": {"vision_config": {"out_hidden_size": 2048}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 151652},
    "qwen3_omni_moe_thinker": {
        "vision_config": {"out_hidden_size": 2048},
        "vision_start_token_id": 151652,
    },
    "qwen3_vl": {"vision_config": {"out_hidden_size": 4096}},
    "qwen3_vl_moe": {"vision_config": {"out_hidden_size": 2048}},
    "shieldgemma2": {"mm_tokens_per_image": 49},
    "smolvlm": {"vision_config": {"image_size": 256}},
    "step3p7": {"text_config": {"sliding_window": 512}},
    "t5gemma2": {"encoder": {"mm_tokens_per_image": 49}},
}

MINICPM = {
    "image_token_id": IMAGE,
    "video_token_id": 391,
    "insert_layer_id": 1,
    "image_size": 64,
    "patch_size": 8,
    "text_config": {**QWEN3_5_TEXT, "model_type": "qwen3_5_text"},
    "vision_config": tower(num_hidden_layers=4, image_size=64, insert_layer_id=1),
}

SPECIAL: dict[str, dict[str, Any]] = {
    "minicpm_ocr": {**MINICPM, "text_config": text(model_type="qwen3", head_dim=24)},
    "minicpmv4_6": MINICPM,
    "minicpmv4_7": MINICPM,
    "blip-2": {
        "image_token_index": IMAGE,
        "num_query_tokens": 8,
        "vision_config": tower(),
        "qformer_config": {**QFORMER, "encoder_hidden_size": 64, "cross_attention_frequency": 1},
        "text_config": OPT_TEXT,
    },
    "instructblip": {
        "image_token_index": IMAGE,
        "num_query_tokens": 8,
        "vision_config": tower(),
        "qformer_config": {
            **QFORMER,
            "encoder_hidden_size": 64,
            "cross_attention_frequency": 1,
            "vocab_size": 400,
        },
        "text_config": OPT_TEXT,
    },
    "gemma4": {
        **GEMMA4_TOKENS,
        "text_config": GEMMA4_TEXT,
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "global_head_dim": 16,
            "patch_size": 8,
            "position_embedding_size": 64,
            "pooling_kernel_size": 2,
        },
    },
    "gemma4_unified": {
        **GEMMA4_TOKENS,
        "text_config": text(head_dim=24, **SLIDING),
        "vision_config": {
            "patch_size": 8,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 96,
            "mm_posemb_size": 64,
            "output_proj_dims": 96,
        },
    },
    "glm4v_moe": {
        **GLM_TOKENS,
        "text_config": text(
            rope_parameters=GLM_ROPE,
            moe_intermediate_size=48,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=1,
            first_k_dense_replace=1,
        ),
        "vision_config": GLM_TOWER,
    },
    "glm_ocr": {
        **GLM_TOKENS,
        "text_config": text(rope_parameters={**MROPE, "partial_rotary_factor": 1.0}),
        "vision_config": GLM_TOWER,
    },
    "granite4_vision": {
        "image_token_index": IMAGE,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": [[32, 64]],
        "image_seq_length": 16,
        "downsample_rate": "2/4",
        "deepstack_layer_map": [[-2, 0], [-1, 1]],
        "spatial_vision_layer": -1,
        "spatial_target_layers": [2, 3],
        "text_config": text(),
        "vision_config": siglip(),
        "qformer_config": {**QFORMER, "num_hidden_layers": 1, "encoder_hidden_size": 64},
    },
    "instructblipvideo": {
        "video_token_index": IMAGE,
        "num_query_tokens": 8,
        "vision_config": tower(),
        "qformer_config": {
            **QFORMER,
            "encoder_hidden_size": 64,
            "cross_attention_frequency": 1,
            "vocab_size": 400,
        },
        "text_config": OPT_TEXT,
    },
    "llama4": {
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
        "vision_config": tower(
            intermediate_size=256,
            vision_output_dim=64,
            projector_input_dim=64,
            projector_output_dim=64,
            pixel_shuffle_ratio=0.5,
        ),
    },
    "molmo2": {
        "image_start_token_id": 391,
        "low_res_image_start_token_id": 392,
        "image_end_token_id": 393,
        "image_patch_id": IMAGE,
        "frame_start_token_id": 394,
        "frame_end_token_id": 395,
        "text_config": text(head_dim=24, additional_vocab_size=16),
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "image_size": [32, 32],
            "patch_size": 8,
            "num_position_embeddings": 16,
        },
        "adapter_config": {
            "vision_feature_layer": [3, 1],
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "intermediate_size": 96,
            "text_hidden_size": 96,
        },
    },
    "ovis2": {
        "image_token_id": IMAGE,
        "visual_indicator_token_ids": [391, 392, 393, 394, 395],
        "vocab_size": 400,
        "hidden_size": 96,
        "text_config": text(model_type="qwen2"),
        "vision_config": tower(vocab_size=64, hidden_stride=2),
    },
    "qwen4_exp": {
        **QWEN_TOKENS,
        "text_config": text(
            head_dim=32,
            rope_parameters={**INTERLEAVED, "mrope_section": [6, 5, 5]},
            layer_types=["linear_attention", "indexed_attention"] * 2,
            hc_count=2,
            hc_lowrank=16,
            indexer_n_heads=2,
            indexer_kv_heads=1,
            indexer_head_dim=32,
            indexer_budget=8,
            indexer_compress_ratio=2,
            shared_expert_intermediate_size=48,
            **EXPERTS,
            **LINEAR_ATTENTION,
        ),
        "vision_config": grid_tower(),
    },
    "chameleon": {**text(), "vq_config": VQ, "vocabulary_map": CHAMELEON_TOKENS},
}

# images that are smaller than the default, for speed alone: part, field, value
SMALL_IMAGES: dict[str, tuple[tuple[str, str, Any], ...]] = {
    "mllama": (("vision_config", "image_size", 56),),
    "llava": (("vision_config", "image_size", 112),),
    "got_ocr2": (("vision_config", "image_size", 256),),
    "pp_chart2table": (("vision_config", "image_size", 256),),
}
