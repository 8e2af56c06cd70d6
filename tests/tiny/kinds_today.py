"""The kinds of tiny models of 2025 and 2026: Qwen3-VL and Qwen3.5, Gemma 3 and 4, InternVL, Mistral 3 and
Pixtral, GLM-V.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers as T

from tiny.kind import PATCH, TILE, Kind, siglip, text, tower
from tiny.kinds import QWEN2_VL, QWEN_GRID, QWEN_TOKENS, SQUARE

SIZES = {"hidden_size": 64, "intermediate_size": 96}
PIXELS = {"shortest_edge": TILE * TILE, "longest_edge": 4 * TILE * TILE}
FRAMES = {"shortest_edge": 2 * TILE * TILE, "longest_edge": 8 * TILE * TILE}  # of all frames together


def ids(tokenizer: Any, names: dict[str, str]) -> dict[str, int]:
    return {key: tokenizer.convert_tokens_to_ids(name) for key, name in names.items()}


# ---- qwen3_vl, qwen3_5


def qwen3_vl_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    grid = {"num_position_embeddings": 16, "out_hidden_size": 96, "deepstack_visual_indexes": [0, 1]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4], "mrope_interleaved": True}
    return T.Qwen3VLConfig(
        vision_config={**QWEN_GRID, **SIZES, **grid},
        text_config=text("qwen3_vl_text", tokenizer, head_dim=24, rope_parameters=rope, **tied),
        **ids(tokenizer, QWEN_TOKENS),
        **tied,
    )


def qwen3_5_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }  # fmt: skip
    linear = {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    }  # fmt: skip
    return T.Qwen3_5Config(
        vision_config={**QWEN_GRID, **SIZES, "num_position_embeddings": 16, "out_hidden_size": 96},
        text_config=text("qwen3_5_text", tokenizer, head_dim=32, rope_parameters=rope, **linear),
        **ids(tokenizer, QWEN_TOKENS),
    )


def qwen3_processor(tokenizer: Any, template: str | None) -> Any:
    patches = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    images = T.Qwen2VLImageProcessor(size=PIXELS, **patches)
    videos = T.Qwen3VLVideoProcessor(size=FRAMES, cap_pixels_per_frame=False, **patches)
    return T.Qwen3VLProcessor(images, tokenizer, videos, chat_template=template)


QWEN3_VL = replace(
    QWEN2_VL, model_type="qwen3_vl", config=qwen3_vl_config, processor=qwen3_processor, tied=True
)
QWEN3_5 = replace(
    QWEN2_VL, model_type="qwen3_5", config=qwen3_5_config, processor=qwen3_processor, drops=False, slow=True
)


# ---- gemma3, gemma4, gemma4_unified

GEMMA3_NAMED = {
    "boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>",
}  # fmt: skip
GEMMA4_NAMED = {
    "boi_token": "<|image>",
    "image_token": "<|image|>",
    "eoi_token": "<image|>",
    "boa_token": "<|audio>",
    "audio_token": "<|audio|>",
    "eoa_token": "<audio|>",
}
GEMMA4_IDS = {
    "boi_token_id": "<|image>",
    "image_token_id": "<|image|>",
    "eoi_token_id": "<image|>",
    "boa_token_id": "<|audio>",
    "audio_token_id": "<|audio|>",
    "eoa_token_index": "<audio|>",
    "video_token_id": "<|video|>",
}


def gemma3_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    windows = {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 24,
    }
    names = {
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    }
    return T.Gemma3Config(
        vision_config=siglip(),
        text_config=text("gemma3_text", tokenizer, head_dim=24, **windows),
        mm_tokens_per_image=4,
        **ids(tokenizer, names),
    )


def gemma3_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.Gemma3ImageProcessor(size=SQUARE)
    return T.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)


def gemma4_text(model_type: str, tokenizer: Any, **more: Any) -> dict[str, Any]:
    windows = {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "global_head_dim": 32,
    }
    return text(model_type, tokenizer, head_dim=24, **{**windows, **more})


def gemma4_vision() -> dict[str, Any]:
    return {
        **SIZES, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
        "patch_size": PATCH, "pooling_kernel_size": 2, "position_embedding_size": 64, "standardize": False,
        "use_clipped_linears": True,
    }  # fmt: skip


def gemma4_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    """As 31B: images see themselves in the sliding blocks, no embedding per layer."""
    whole = {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}
    return T.Gemma4Config(
        vision_config=gemma4_vision(),
        text_config=gemma4_text("gemma4_text", tokenizer, **whole),
        **ids(tokenizer, GEMMA4_IDS),
    )


def gemma4_e2b_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    """As E2B: the last two blocks read the keys and values of the first two; an embedding per layer;
    audio.
    """
    shared = {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "vocab_size_per_layer_input": len(tokenizer),
        "hidden_size_per_layer_input": 16,
    }
    audio = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 48,
        "subsampling_conv_channels": [8, 4],
    }  # fmt: skip
    return T.Gemma4Config(
        vision_config=gemma4_vision(),
        text_config=gemma4_text("gemma4_text", tokenizer, **shared),
        audio_config=audio,
        **ids(tokenizer, GEMMA4_IDS),
    )


def gemma4_unified_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {
        "patch_size": PATCH, "pooling_kernel_size": 2, "mm_embed_dim": 64, "mm_posemb_size": 64,
        "output_proj_dims": 64,
    }  # fmt: skip
    return T.Gemma4UnifiedConfig(
        vision_config=vision,
        text_config=gemma4_text("gemma4_unified_text", tokenizer, use_bidirectional_attention="vision"),
        audio_config={"output_proj_dims": 48},
        **ids(tokenizer, GEMMA4_IDS),
    )


def gemma4_processor(unified: str, tokenizer: Any, template: str | None) -> Any:
    def made(name: str, *args: Any, **more: Any) -> Any:
        return getattr(T, f"Gemma4{unified}{name}")(*args, **more)

    images = made("ImageProcessor", patch_size=PATCH, pooling_kernel_size=2, max_soft_tokens=70)
    videos = made("VideoProcessor", patch_size=PATCH, pooling_kernel_size=2, max_soft_tokens=70)
    audio = made("AudioFeatureExtractor")
    return made("Processor", audio, images, tokenizer, videos, chat_template=template, image_seq_length=70)


GEMMA3 = Kind(
    model_type="gemma3",
    special=("<start_of_turn>", "<end_of_turn>", *GEMMA3_NAMED.values()),
    named=GEMMA3_NAMED,
    template=(
        "<s><start_of_turn>{{ message['role'] }}\n<start_of_image>",
        "<end_of_turn>\n",
        "<start_of_turn>model\n",
    ),
    config=gemma3_config,
    processor=gemma3_processor,
    prompt=(
        "<s><start_of_turn>user\n\n\n<start_of_image><image_soft_token>×4<end_of_image>\n\nIs it"
        " red?<end_of_turn>\n<start_of_turn>model\n"
    ),
    tied=True,
    adds_bos=True,
)
GEMMA4 = Kind(
    model_type="gemma4",
    special=("<|turn>", "<turn|>", *GEMMA4_NAMED.values(), "<|video|>"),
    named=GEMMA4_NAMED,
    template=("<s><|turn>{{ message['role'] }}\n<|image|>", "<turn|>\n", "<|turn>model\n"),
    config=gemma4_config,
    processor=lambda tokenizer, template: gemma4_processor("", tokenizer, template),
    prompt="<s><|turn>user\n<|image><|image|>×63<image|>Is it red?<turn|>\n<|turn>model\n",
    tied=True,
    adds_bos=True,
    video="<|video|>",
    slow=True,
)
GEMMA4_E2B = replace(GEMMA4, config=gemma4_e2b_config, drops=False, slow=False)
GEMMA4_UNIFIED = replace(
    GEMMA4,
    model_type="gemma4_unified",
    config=gemma4_unified_config,
    processor=lambda tokenizer, template: gemma4_processor("Unified", tokenizer, template),
)


# ---- internvl


def internvl_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {**tower("internvl_vision"), "image_size": [TILE, TILE], "patch_size": [PATCH, PATCH]}
    return T.InternVLConfig(
        vision_config=vision,
        text_config=text("qwen2", tokenizer, **tied),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        **tied,
    )


def internvl_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.GotOcr2ImageProcessor(size=SQUARE, max_patches=4)
    videos = T.InternVLVideoProcessor(size=SQUARE)
    return T.InternVLProcessor(images, tokenizer, videos, image_seq_length=4, chat_template=template)


INTERNVL = Kind(
    model_type="internvl",
    special=("<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>", "<video>"),
    named={
        "start_image_token": "<img>",
        "context_image_token": "<IMG_CONTEXT>",
        "end_image_token": "</img>",
        "video_token": "<video>",
    },
    template=(
        "<|im_start|>{{ message['role'] }}\n<IMG_CONTEXT>\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    config=internvl_config,
    processor=internvl_processor,
    prompt=("<|im_start|>user\n<img><IMG_CONTEXT>×4</img>\nIs it red?<|im_end|>\n<|im_start|>assistant\n"),
    video="<video>\n",
    slow=True,
)


# ---- mistral3, and llava with a Pixtral tower


def pixtral_tower() -> dict[str, Any]:
    return {**tower("pixtral"), "image_size": 2 * TILE, "head_dim": 16}


def mistral3_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.Mistral3Config(
        vision_config=pixtral_tower(),
        text_config=text("mistral", tokenizer, head_dim=24, sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        **tied,
    )


def llava_pixtral_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.LlavaConfig(
        vision_config=pixtral_tower(),
        text_config=text("mistral", tokenizer, head_dim=24, sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def pixtral_processor(fold: int, tokenizer: Any, template: str | None) -> Any:
    images = T.PixtralImageProcessor(size={"longest_edge": 2 * TILE}, patch_size=PATCH)
    return T.PixtralProcessor(
        images, tokenizer, patch_size=PATCH, spatial_merge_size=fold, chat_template=template
    )


MISTRAL3 = Kind(
    model_type="mistral3",
    special=("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"),
    template=("<s>[INST][IMG]", "[/INST]", ""),
    config=mistral3_config,
    processor=lambda tokenizer, template: pixtral_processor(2, tokenizer, template),
    prompt="<s>[INST][IMG]×3[IMG_BREAK][IMG]×3[IMG_BREAK][IMG]×3[IMG_END]Is it red?[/INST]",
    adds_bos=True,
    slow=True,
)
LLAVA_PIXTRAL = replace(
    MISTRAL3,
    model_type="llava",
    config=llava_pixtral_config,
    processor=lambda tokenizer, template: pixtral_processor(1, tokenizer, template),
    prompt="<s>[INST]" + "[IMG]×5[IMG_BREAK]" * 5 + "[IMG]×5[IMG_END]Is it red?[/INST]",
)


# ---- glm4v, glm46v, glm_ocr

GLM_IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}


def glm_config(config_class: Any, kind: str, sections: int, rotated: float, tokenizer: Any) -> Any:
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [sections] * 3,
        "partial_rotary_factor": rotated,
    }  # fmt: skip
    return config_class(
        vision_config={
            **QWEN_GRID,
            **SIZES,
            "image_size": TILE,
            "out_hidden_size": 96,
            "model_type": f"{kind}_vision",
        },
        text_config=text(f"{kind}_text", tokenizer, rope_parameters=rope),
        **ids(tokenizer, GLM_IDS),
    )


def glm_processor(name: str, tokenizer: Any, template: str | None) -> Any:
    settings = {"size": FRAMES, "patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    images = getattr(T, f"{name}ImageProcessor")(**settings)  # of an image as two equal frames
    videos = getattr(T, f"{name}VideoProcessor")(**settings)
    return getattr(T, f"{name}Processor")(images, tokenizer, videos, chat_template=template)


GLM4V = Kind(
    model_type="glm4v",
    special=("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", *GLM_IDS.values()),
    template=(
        "[gMASK]<sop><|{{ message['role'] }}|>\n<|begin_of_image|><|image|><|end_of_image|>",
        "",
        "<|assistant|>\n",
    ),
    config=lambda tokenizer, tied: glm_config(T.Glm4vConfig, "glm4v", 2, 0.5, tokenizer),
    processor=lambda tokenizer, template: glm_processor("Glm4v", tokenizer, template),
    prompt=("[gMASK]<sop><|user|>\n<|begin_of_image|><|image|>×6<|end_of_image|>Is it red?<|assistant|>\n"),
    video="<|begin_of_video|><|video|><|end_of_video|>",
    slow=True,
)
GLM46V = replace(
    GLM4V,
    model_type="glm46v",
    config=lambda tokenizer, tied: glm_config(T.Glm46VConfig, "glm4v", 2, 0.5, tokenizer),
    processor=lambda tokenizer, template: glm_processor("Glm46V", tokenizer, template),
)
GLM_OCR = replace(
    GLM46V,
    model_type="glm_ocr",
    config=lambda tokenizer, tied: glm_config(T.GlmOcrConfig, "glm_ocr", 4, 1.0, tokenizer),
)


ALL: dict[str, Kind] = {
    "qwen3_vl": QWEN3_VL,
    "qwen3_5": QWEN3_5,
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "gemma4_e2b": GEMMA4_E2B,
    "gemma4_unified": GEMMA4_UNIFIED,
    "internvl": INTERNVL,
    "mistral3": MISTRAL3,
    "llava_pixtral": LLAVA_PIXTRAL,
    "glm4v": GLM4V,
    "glm46v": GLM46V,
    "glm_ocr": GLM_OCR,
}
