"""More kinds of tiny models, one for each family of the long tail; their tests are slow."""

from __future__ import annotations

from typing import Any

import transformers as T

from tiny.kind import PATCH, TILE, Kind, siglip, text, tower
from tiny.kinds import PINPOINTS, QWEN_TOKENS, SQUARE

IMAGE = ("<image>",)
TURN = ("<|im_start|>", "<|im_end|>")
GRID = {"shortest_edge": TILE * TILE, "longest_edge": 4 * TILE * TILE}  # pixels
WINDOW = {
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def turn(image: str) -> tuple[str, str, str]:
    """The chat template of Qwen with an image in front of the question."""
    before = "<|im_start|>{{ message['role'] }}\n" + image
    return before, "<|im_end|>\n", "<|im_start|>assistant\n"


def turned(image: str) -> str:
    return f"<|im_start|>user\n{image}Is it red?<|im_end|>\n<|im_start|>assistant\n"


# ---- lfm2_vl


def lfm2_vl_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {key: value for key, value in tower("siglip2_vision_model").items() if key != "image_size"}
    blocks = {"layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3}
    return T.Lfm2VlConfig(
        vision_config={**vision, "num_patches": 16, "vision_use_head": False},
        text_config=text("lfm2", tokenizer, **blocks, block_auto_adjust_ff_dim=False, **tied),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=96,
        **tied,
    )


def lfm2_vl_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.Lfm2VlImageProcessor(
        encoder_patch_size=PATCH,
        tile_size=TILE,
        min_image_tokens=4,
        max_image_tokens=4,
        max_tiles=4,
        max_pixels_tolerance=1.0,
    )
    return T.Lfm2VlProcessor(images, tokenizer, chat_template=template)


LFM2_VL = Kind(
    model_type="lfm2_vl",
    special=(
        *TURN, *IMAGE, "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>",
        *(f"<|img_row_{row}_col_{column}|>" for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)),
    ),
    template=turn("<image>"),
    config=lfm2_vl_config,
    processor=lfm2_vl_processor,
    prompt=turned(
        "<|image_start|><|img_row_1_col_1|><image>×4<|img_row_1_col_2|><image>×4<|img_row_2_col_1|><image>×4"
        "<|img_row_2_col_2|><image>×4<|img_thumbnail|><image>×2<|image_end|>"
    ),
    tied=True,
    drops=False,
    slow=True,
)  # fmt: skip


# ---- paddleocr_vl


def paddleocr_vl_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e4}
    ids = {key: tokenizer.convert_tokens_to_ids(name) for key, name in QWEN_TOKENS.items()}
    vision = {key: value for key, value in tower("").items() if key != "model_type"}
    return T.PaddleOCRVLConfig(
        vision_config={**vision, "image_size": 64, "spatial_merge_size": 2},
        text_config=text("paddleocr_vl_text", tokenizer, head_dim=24, rope_parameters=rope, **tied),
        **ids,
        **tied,
    )


def paddleocr_vl_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.PaddleOCRVLImageProcessor(size=GRID, patch_size=PATCH, merge_size=2)
    return T.PaddleOCRVLProcessor(images, tokenizer, chat_template=template)


PADDLEOCR_VL = Kind(
    model_type="paddleocr_vl",
    special=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    template=("<s>User: <|vision_start|><|image_pad|><|vision_end|>", "{{ '\n' }}", "Assistant:\n"),
    config=paddleocr_vl_config,
    processor=paddleocr_vl_processor,
    prompt="<s>User: <|vision_start|><|image_pad|>×6<|vision_end|>Is it red?\nAssistant:\n",
    named={"image_token": "<|image_pad|>"},
    slow=True,
)


# ---- aya_vision, cohere2_vision


def aya_vision_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.AyaVisionConfig(
        vision_config=siglip(),
        text_config=text("cohere2", tokenizer, head_dim=24, **WINDOW),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        vision_feature_layer=-1,
    )


def aya_vision_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    sizes = {"patch_size": PATCH, "img_size": TILE, "downsample_factor": 2}
    return T.AyaVisionProcessor(images, tokenizer, chat_template=template, **sizes)


SAYS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>")
AYA_VISION = Kind(
    model_type="aya_vision",
    special=(*IMAGE, *SAYS, "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL"),
    template=(
        "<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|><image>",
        "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    config=aya_vision_config,
    processor=aya_vision_processor,
    prompt=(
        "<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|><|START_OF_IMG|>TILE_GLOBAL<|IMG_PATCH|>×4<|END_OF_IMG|>"
        "Is it red?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    ),
    tied=True,
    adds_bos=True,
    slow=True,
)


def cohere2_vision_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.Cohere2VisionConfig(
        vision_config=siglip(),
        text_config=text("cohere2", tokenizer, head_dim=24, **WINDOW),
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        alignment_intermediate_size=192,
    )


def cohere2_vision_processor(tokenizer: Any, template: str | None) -> Any:
    # here patch_size counts the tokens on a side of a tile
    images = T.Cohere2VisionImageProcessor(size=SQUARE, patch_size=TILE // PATCH // 2, max_patches=4)
    return T.Cohere2VisionProcessor(images, tokenizer, chat_template=template)


COHERE2_TOKENS = {
    "image_token": "<|IMG_PATCH|>",
    "boi_token": "<|START_OF_IMG|>",
    "eoi_token": "<|END_OF_IMG|>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
}
TILE_LINE = "<|IMG_PATCH|>×4<|IMG_LINE_BREAK|>"
COHERE2_VISION = Kind(
    model_type="cohere2_vision",
    special=(*SAYS, "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
    template=(
        "<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|><|IMG_PATCH|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    config=cohere2_vision_config,
    processor=cohere2_vision_processor,
    prompt=(
        f"<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|><|START_OF_IMG|>{TILE_LINE * 5}<|END_OF_IMG|>Is it red?"
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    ),
    named=COHERE2_TOKENS,
    tied=True,
    adds_bos=True,
    slow=True,
)


# ---- granite4_vision


def granite4_vision_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    former = {"num_hidden_layers": 1, "intermediate_size": 96, "cross_attention_frequency": 1}
    return T.Granite4VisionConfig(
        vision_config=siglip(),
        text_config=text("granite4_vision_text", tokenizer, **tied),
        qformer_config={"model_type": "blip_2_qformer", "use_qformer_text_input": False, **former},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        deepstack_layer_map=[[-2, 0], [-1, 1]],
        spatial_target_layers=[1, 2, 2, 2],
        **tied,
    )


def granite4_vision_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.LlavaNextImageProcessor(size=SQUARE, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    counted = {
        "patch_size": PATCH,
        "vision_feature_select_strategy": "full",
        "downsample_rate": "1/2",
    }
    return T.Granite4VisionProcessor(images, tokenizer, chat_template=template, **counted)


GRANITE4_VISION = Kind(
    model_type="granite4_vision",
    special=(*IMAGE, "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    template=(
        "<|start_of_role|>user<|end_of_role|><image>\n",
        "<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    config=granite4_vision_config,
    processor=granite4_vision_processor,
    prompt=(
        "<|start_of_role|>user<|end_of_role|><image>×24\nIs it red?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    ),
    fixed_tokens=True,
    slow=True,
)


# ---- minicpmv4_6


def minicpmv4_6_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {key: value for key, value in tower("").items() if key != "model_type"}
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.25,
    }
    linear = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    }
    language = text("qwen3_5_text", tokenizer, head_dim=32, rope_parameters=rope, **linear, **tied)
    return T.MiniCPMV4_6Config(
        vision_config={**vision, "image_size": 64},
        text_config=language,
        image_size=64,
        insert_layer_id=1,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        **tied,
    )


MINICPM_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def minicpmv4_6_processor(tokenizer: Any, template: str | None) -> Any:
    sizes = {"patch_size": PATCH, "scale_resolution": TILE, "max_slice_nums": 4}
    return T.MiniCPMV4_6Processor(
        T.MiniCPMV4_6ImageProcessor(**sizes),
        T.MiniCPMV4_6VideoProcessor(**sizes),
        tokenizer,
        chat_template=template,
    )


MINICPMV4_6 = Kind(
    model_type="minicpmv4_6",
    special=(*TURN, *MINICPM_TOKENS.values()),
    template=turn("<|image_pad|>"),
    config=minicpmv4_6_config,
    processor=minicpmv4_6_processor,
    prompt=turned(
        "<image_id>0</image_id><image><|image_pad|>×1</image>"
        "<slice><|image_pad|>×1</slice>\n<slice><|image_pad|>×1</slice>"
    ),
    named=MINICPM_TOKENS,
    drops=False,
    video="<|video_pad|>",
    slow=True,
)


ALL: dict[str, Kind] = {
    "lfm2_vl": LFM2_VL,
    "paddleocr_vl": PADDLEOCR_VL,
    "aya_vision": AYA_VISION,
    "cohere2_vision": COHERE2_VISION,
    "granite4_vision": GRANITE4_VISION,
    "minicpmv4_6": MINICPMV4_6,
}
