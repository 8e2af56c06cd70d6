"""Still more kinds of tiny models, all of them slow: models that read documents and crops."""

from __future__ import annotations

from typing import Any

import transformers as T

from tiny.kind import PATCH, TILE, Kind, clip, text, tower
from tiny.kinds import CROP, SQUARE
from tiny.kinds_more import IMAGE, TURN, turn, turned

# ---- molmo2


def molmo2_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    token = tokenizer.convert_tokens_to_ids
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    sizes = {"hidden_size": 64, "intermediate_size": 96, **heads}
    tables = {"vocab_size": len(tokenizer) - 9, "additional_vocab_size": 9}
    return T.Molmo2Config(
        vision_config={**sizes, "num_hidden_layers": 3, "image_size": [TILE, TILE], "patch_size": PATCH},
        adapter_config={**sizes, "vision_feature_layer": [2, 0], "text_hidden_size": 96},
        text_config=text("molmo2_text", tokenizer, head_dim=24, **tied) | tables,
        image_start_token_id=token("<im_start>"),
        low_res_image_start_token_id=token("<low_res_im_start>"),
        image_end_token_id=token("<im_end>"),
        image_patch_id=token("<im_patch>"),
        frame_start_token_id=token("<frame_start>"),
        frame_end_token_id=token("<frame_end>"),
        **tied,
    )


def molmo2_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.Molmo2ImageProcessor(size=SQUARE, patch_size=PATCH, max_crops=4, overlap_margins=[1, 1])
    videos = T.Molmo2VideoProcessor(size=SQUARE, patch_size=PATCH, pooling_size=[2, 2])
    return T.Molmo2Processor(images, videos, tokenizer, chat_template=template)


ROW_OF_2, ROW_OF_3 = (f"<im_patch>×{columns}<im_col>" for columns in (2, 3))
MOLMO2 = Kind(
    model_type="molmo2",
    special=(*TURN, "<|video|>"),
    after_vocabulary=(
        "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
        "<frame_start>", "<frame_end>",
    ),
    template=turn("<|image|>"),
    config=molmo2_config,
    processor=molmo2_processor,
    prompt="<s>" + turned(
        f"<low_res_im_start>{ROW_OF_2 * 2}<im_end><im_start>{ROW_OF_3 * 3}<im_end>"
    ),
    video="<|video|>",
    slow=True,
)  # fmt: skip


# ---- ovis2


def ovis2_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {key: value for key, value in tower("").items() if key != "model_type"}
    marks = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    return T.Ovis2Config(
        vision_config={**vision, "vocab_size": 64, "hidden_stride": 2},
        text_config=text("qwen2", tokenizer, **tied),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=[tokenizer.convert_tokens_to_ids(mark) for mark in marks],
        vocab_size=len(tokenizer),
        hidden_size=96,
        **tied,
    )


def ovis2_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.Ovis2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4)
    return T.Ovis2Processor(images, tokenizer, chat_template=template, image_seq_length=4)


ATOMS = "<IMG_ATOM>×4"
OVIS2 = Kind(
    model_type="ovis2",
    special=(
        *TURN, *IMAGE, "<IMG_START>", "<IMG_ATOM>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>",
    ),
    template=turn("<image>\n"),
    config=ovis2_config,
    processor=ovis2_processor,
    prompt=turned(
        f"<IMG_START>{ATOMS}<IMG_GRID>{ATOMS}<IMG_COL>{ATOMS}<IMG_ROW>{ATOMS}<IMG_COL>{ATOMS}<IMG_END>\n"
    ),
    tied=True,
    slow=True,
)  # fmt: skip


# ---- idefics2


def idefics2_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    vision = {key: value for key, value in tower("").items() if key != "model_type"}
    perceiver = {
        "hidden_size": 96, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4,
        "resampler_head_dim": 24, "num_key_value_heads": 2,
    }  # fmt: skip
    return T.Idefics2Config(
        vision_config=vision,
        text_config=text("mistral", tokenizer, sliding_window=None, **tied),
        perceiver_config=perceiver,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **tied,
    )


def idefics2_processor(tokenizer: Any, template: str | None) -> Any:
    sides = {"shortest_edge": TILE // 2, "longest_edge": TILE}
    images = T.Idefics2ImageProcessor(size=sides, do_image_splitting=True)
    return T.Idefics2Processor(images, tokenizer, image_seq_len=4, chat_template=template)


IDEFICS2 = Kind(
    model_type="idefics2",
    special=("<fake_token_around_image>", *IMAGE, "<end_of_utterance>"),
    template=("{{ message['role'].capitalize() }}:<image>", "<end_of_utterance>\n", "Assistant:"),
    config=idefics2_config,
    processor=idefics2_processor,
    prompt=(
        "<s>User:"
        + "<fake_token_around_image><image>×4" * 5
        + "<fake_token_around_image> Is it red?<end_of_utterance>\nAssistant:"
    ),
    named={"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"},
    adds_bos=True,
    slow=True,
)


# ---- lighton_ocr


def lighton_ocr_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.LightOnOcrConfig(
        vision_config={**tower("pixtral"), "image_size": 64, "head_dim": 16},
        text_config=text("qwen3", tokenizer, head_dim=24, **tied),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        **tied,
    )


def lighton_ocr_processor(tokenizer: Any, template: str | None) -> Any:
    images = T.PixtralImageProcessor(size={"longest_edge": 2 * TILE}, patch_size=2 * PATCH)
    return T.LightOnOcrProcessor(images, tokenizer, patch_size=PATCH, chat_template=template)


LIGHTON_TOKENS = {
    "image_token": "<|image_pad|>",
    "image_break_token": "<|vision_pad|>",
    "image_end_token": "<|vision_end|>",
}
LIGHTON_OCR = Kind(
    model_type="lighton_ocr",
    special=(*TURN, "<|image_pad|>", "<|vision_pad|>", "<|vision_end|>"),
    template=turn("<|image_pad|>"),
    config=lighton_ocr_config,
    processor=lighton_ocr_processor,
    prompt=turned("<|image_pad|>×9"),
    named=LIGHTON_TOKENS,
    tied=True,
    slow=True,
)


# ---- vipllava


def vipllava_config(tokenizer: Any, tied: dict[str, bool]) -> T.PretrainedConfig:
    return T.VipLlavaConfig(
        vision_config=clip(),
        text_config=text("llama", tokenizer, **tied),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-2, -1],
    )


def vipllava_processor(tokenizer: Any, template: str | None) -> Any:
    counted = {"patch_size": PATCH, "num_additional_image_tokens": 1}
    images = T.CLIPImageProcessor(**CROP)
    return T.LlavaProcessor(
        images, tokenizer, chat_template=template, vision_feature_select_strategy="default", **counted
    )


VIPLLAVA = Kind(
    model_type="vipllava",
    special=IMAGE,
    template=(
        "###{{ 'Human' if message['role'] == 'user' else 'Assistant' }}: <image>\n",
        "",
        "###Assistant:",
    ),
    config=vipllava_config,
    processor=vipllava_processor,
    prompt="<s>###Human: <image>×16\nIs it red?###Assistant:",
    adds_bos=True,
    slow=True,
)


ALL: dict[str, Kind] = {
    "molmo2": MOLMO2,
    "ovis2": OVIS2,
    "idefics2": IDEFICS2,
    "lighton_ocr": LIGHTON_OCR,
    "vipllava": VIPLLAVA,
}
