"""The kinds of tiny models: one entry each, at least one for every family, more where its towers differ."""

from __future__ import annotations

from typing import Any

import transformers as T

from tiny.kind import PATCH, TILE, Kind, clip, siglip, text, tower

PINPOINTS = [[32, 64], [64, 32], [64, 64]]
CROP = {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}
SQUARE = {"height": TILE, "width": TILE}
COUNTED = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


# ---- llava


def llava_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.LlavaConfig(
        vision_config=clip(),
        text_config=text("llama", tokenizer, **tied),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )


def llava_processor(tokenizer: Any, template: str | None) -> Any:
    return T.LlavaProcessor(T.CLIPImageProcessor(**CROP), tokenizer, chat_template=template, **COUNTED)


def llava_siglip_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.LlavaConfig(
        vision_config=siglip(use_head=True),
        text_config=text("llama", tokenizer, **tied),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **tied,
    )


def llava_siglip_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.SiglipImageProcessor(size=SQUARE, do_convert_rgb=True)
    counted = {"patch_size": PATCH, "vision_feature_select_strategy": "full"}
    return T.LlavaProcessor(images, tokenizer, chat_template=template, **counted)


LLAVA = Kind(
    model_type="llava",
    special=("<image>",),
    template=("{{ message['role'].upper() + ': ' }}<image>\n", " ", "ASSISTANT:"),
    config=llava_config,
    processor=llava_processor,
    prompt="<s>USER: <image>×16\nIs it red? ASSISTANT:",
    adds_bos=True,
)
LLAVA_SIGLIP = Kind(
    model_type="llava",
    special=LLAVA.special,
    template=LLAVA.template,
    config=llava_siglip_config,
    processor=llava_siglip_processor,
    prompt="USER: <image>×16\nIs it red? ASSISTANT:",
    tied=True,
)


# ---- llava_next, llava_onevision


def llava_next_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.LlavaNextConfig(
        vision_config=clip(),
        text_config=text("mistral", tokenizer, sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )


def llava_next_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.LlavaNextImageProcessor(**CROP, image_grid_pinpoints=PINPOINTS)
    return T.LlavaNextProcessor(images, tokenizer, chat_template=template, **COUNTED)


LLAVA_NEXT = Kind(
    model_type="llava_next",
    special=("<image>",),
    template=("[INST] <image>\n", " [/INST]", ""),
    config=llava_next_config,
    processor=llava_next_processor,
    prompt="<s>[INST] <image>×72\nIs it red? [/INST]",
    adds_bos=True,
    fixed_tokens=True,
)


def llava_onevision_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    token = tokenizer.convert_tokens_to_ids
    return T.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=text("qwen2", tokenizer, **tied),
        image_grid_pinpoints=PINPOINTS,
        image_token_index=token("<image>"),
        video_token_index=token("<video>"),
        **tied,
    )


def llava_onevision_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    counted = {"num_image_tokens": (TILE // PATCH) ** 2, "vision_feature_select_strategy": "full"}
    videos = T.LlavaOnevisionVideoProcessor(size=SQUARE)
    return T.LlavaOnevisionProcessor(images, tokenizer, videos, chat_template=template, **counted)


LLAVA_ONEVISION = Kind(
    model_type="llava_onevision",
    special=("<|im_start|>", "<|im_end|>", "<image>", "<video>"),
    template=("<|im_start|>{{ message['role'] }} <image>\n", "<|im_end|>", "<|im_start|>assistant\n"),
    config=llava_onevision_config,
    processor=llava_onevision_processor,
    prompt="<|im_start|>user <image>×72\nIs it red?<|im_end|><|im_start|>assistant\n",
    tied=True,
    fixed_tokens=True,
    video="<video>\n",
)


# ---- qwen2_vl, qwen2_5_vl

QWEN_GRID = {
    "depth": 3,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def qwen_text_and_ids(model_type: str, tokenizer: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e4}
    ids = {key: tokenizer.convert_tokens_to_ids(name) for key, name in QWEN_TOKENS.items()}
    return {"text_config": text(model_type, tokenizer, rope_parameters=rope), **ids}


def qwen2_vl_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {**QWEN_GRID, "embed_dim": 64, "hidden_size": 96, "mlp_ratio": 2}
    return T.Qwen2VLConfig(vision_config=vision, **qwen_text_and_ids("qwen2_vl_text", tokenizer), **tied)


def qwen2_5_vl_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 96}
    vision = {**QWEN_GRID, **sizes, "window_size": 32, "fullatt_block_indexes": [1]}
    return T.Qwen2_5_VLConfig(vision_config=vision, **qwen_text_and_ids("qwen2_5_vl_text", tokenizer), **tied)


def qwen_processor(processor_class: Any, tokenizer: Any, template: str | None) -> Any:
    pixels = {"shortest_edge": TILE * TILE, "longest_edge": 4 * TILE * TILE}
    patches = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    images = T.Qwen2VLImageProcessor(size=pixels, **patches)
    videos = T.Qwen2VLVideoProcessor(size=pixels, cap_pixels_per_frame=False, **patches)
    return processor_class(images, tokenizer, videos, chat_template=template)


QWEN2_VL = Kind(
    model_type="qwen2_vl",
    special=(
        "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    ),
    template=(
        "<|im_start|>{{ message['role'] }}\n<|vision_start|><|image_pad|><|vision_end|>",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    config=qwen2_vl_config,
    processor=lambda tokenizer, template: qwen_processor(T.Qwen2VLProcessor, tokenizer, template),
    prompt=(
        "<|im_start|>user\n<|vision_start|><|image_pad|>×6<|vision_end|>Is it"
        " red?<|im_end|>\n<|im_start|>assistant\n"
    ),
    video="<|vision_start|><|video_pad|><|vision_end|>",
)  # fmt: skip
QWEN2_5_VL = Kind(
    model_type="qwen2_5_vl",
    special=QWEN2_VL.special,
    template=QWEN2_VL.template,
    config=qwen2_5_vl_config,
    processor=lambda tokenizer, template: qwen_processor(T.Qwen2_5_VLProcessor, tokenizer, template),
    prompt=QWEN2_VL.prompt,
    tied=True,
    video=QWEN2_VL.video,
)


# ---- mllama


def mllama_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    # the first id after the vocabulary, as in the real checkpoints
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    vision = {
        "hidden_size": 64, "intermediate_size": 96, "attention_heads": 4, "num_hidden_layers": 3,
        "num_global_layers": 2, "intermediate_layers_indices": [0], "vision_output_dim": 2 * 64,
        "image_size": TILE, "patch_size": PATCH,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4}
    more = {"vocab_size": image, "cross_attention_layers": [1], "rope_parameters": rope}
    return T.MllamaConfig(
        vision_config=vision,
        text_config=text("mllama_text_model", tokenizer, **more),
        image_token_index=image,
    )


MLLAMA = Kind(
    model_type="mllama",
    special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
    template=(
        "<s><|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n<|image|>",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    config=mllama_config,
    processor=lambda tokenizer, template: T.MllamaProcessor(
        T.MllamaImageProcessor(size=SQUARE), tokenizer, chat_template=template
    ),
    prompt=(
        "<s><|start_header_id|>user<|end_header_id|>\n\n<|image|>×1Is it"
        " red?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    adds_bos=True,
    after_vocabulary=("<|image|>",),
)


# ---- idefics3, smolvlm


def idefics3_config(config_class: Any, tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {key: value for key, value in tower("").items() if key != "model_type"}
    return config_class(
        vision_config=vision,
        text_config=text("llama", tokenizer, **tied),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        **tied,
    )


def idefics3_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.Idefics3ImageProcessor(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE})
    return T.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


def smolvlm_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.SmolVLMImageProcessor(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE})
    videos = T.SmolVLMVideoProcessor(size={"longest_edge": TILE}, max_image_size={"longest_edge": TILE})
    return T.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=template)


IDEFICS3 = Kind(
    model_type="idefics3",
    special=(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>",
        "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>",
    ),
    template=("<s>{{ message['role'].capitalize() }}:<image>", "<end_of_utterance>\n", "Assistant:"),
    config=lambda tokenizer, tied: idefics3_config(T.Idefics3Config, tokenizer, tied),
    processor=idefics3_processor,
    prompt=(
        "<s>User:<fake_token_around_image><row_1_col_1><image>×4<fake_token_around_image><row_1_col_2>"
        "<image>×4\n<fake_token_around_image><row_2_col_1><image>×4<fake_token_around_image><row_2_col_2>"
        "<image>×4\n\n<fake_token_around_image><global-img><image>×4<fake_token_around_image>"
        "Is it red?<end_of_utterance>\nAssistant:"
    ),
    adds_bos=True,
)  # fmt: skip
SMOLVLM = Kind(
    model_type="smolvlm",
    special=IDEFICS3.special,
    template=IDEFICS3.template,
    config=lambda tokenizer, tied: idefics3_config(T.SmolVLMConfig, tokenizer, tied),
    processor=smolvlm_processor,
    prompt=IDEFICS3.prompt,
    tied=True,
)


# ---- paligemma


def paligemma_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.PaliGemmaConfig(
        vision_config={**siglip(), "projection_dim": 96},
        text_config=text("gemma", tokenizer, head_dim=24),
        projection_dim=96,
        hidden_size=96,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )


def paligemma_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.SiglipImageProcessor(size=SQUARE, do_convert_rgb=True)
    images.image_seq_length = (TILE // PATCH) ** 2
    return T.PaliGemmaProcessor(images, tokenizer)


PALIGEMMA = Kind(
    model_type="paligemma",
    special=("<image>",),
    template=None,
    config=paligemma_config,
    processor=paligemma_processor,
    prompt="<image>×16<s>Is it red?\n",
    tied=True,
    needs_image=True,
)


ALL: dict[str, Kind] = {
    "llava": LLAVA,
    "llava_siglip": LLAVA_SIGLIP,
    "llava_next": LLAVA_NEXT,
    "llava_onevision": LLAVA_ONEVISION,
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "mllama": MLLAMA,
    "idefics3": IDEFICS3,
    "smolvlm": SMOLVLM,
    "paligemma": PALIGEMMA,
}
