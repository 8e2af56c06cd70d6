"""Tiny members of every supported family: seeded models built from their configs, real processors,
checkpoints on the disk, and questions.

    model, processor = tiny_model("mllama"), tiny_processor("mllama")
    folder = tiny_checkpoint("mllama", tmp_path / "model", torch.bfloat16)

The weights are drawn in float32, with unit-variance layers and open gates, so that every part of a model
shows in its logits; other dtypes are those numbers rounded. Vocabularies hold the special tokens of the real
checkpoints and the pieces of a byte-level BPE, so every string has a code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as T
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bivlm.types import Sample

TILE, PATCH = 32, 8
TEXT_LIMIT = 512
CORPUS = (
    "What color is the square in the picture? Is it red, green or blue? How many circles are there? Answer"
    " yes or no."
)

_IDEFICS_TOKENS = (
    "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>",
    "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>",
)  # fmt: skip
_QWEN_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# the special tokens of each kind, in the order of their ids; "<pad>", "<s>" and "</s>" come first in all of
# them
SPECIAL: dict[str, tuple[str, ...]] = {
    "llava": ("<image>",),
    "llava_siglip": ("<image>",),
    "llava_next": ("<image>",),
    "llava_onevision": ("<|im_start|>", "<|im_end|>", "<image>", "<video>"),
    "qwen2_vl": _QWEN_TOKENS,
    "qwen2_5_vl": _QWEN_TOKENS,
    "mllama": (
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ),  # "<|image|>" stands behind the vocabulary
    "idefics3": _IDEFICS_TOKENS,
    "smolvlm": _IDEFICS_TOKENS,
}
KINDS: tuple[str, ...] = tuple(SPECIAL)
TIED: frozenset[str] = frozenset({"llava_siglip", "llava_onevision", "qwen2_5_vl", "smolvlm"})
ADDS_BOS: frozenset[str] = frozenset(
    {"llava", "llava_next", "mllama", "idefics3"}
)  # tokenizers that put "<s>" in front by themselves

TEMPLATES: dict[
    str, tuple[str, str, str]
] = {  # before a message's content (image and text), after it, and where the answer begins
    "llava": ("{{ message['role'].upper() + ': ' }}<image>\n", " ", "ASSISTANT:"),
    "llava_siglip": ("{{ message['role'].upper() + ': ' }}<image>\n", " ", "ASSISTANT:"),
    "llava_next": ("[INST] <image>\n", " [/INST]", ""),
    "llava_onevision": (
        "<|im_start|>{{ message['role'] }} <image>\n",
        "<|im_end|>",
        "<|im_start|>assistant\n",
    ),
    "qwen2_vl": (
        "<|im_start|>{{ message['role'] }}\n<|vision_start|><|image_pad|><|vision_end|>",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "qwen2_5_vl": (
        "<|im_start|>{{ message['role'] }}\n<|vision_start|><|image_pad|><|vision_end|>",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    "mllama": (
        "<s><|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n<|image|>",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "idefics3": ("<s>{{ message['role'].capitalize() }}:<image>", "<end_of_utterance>\n", "Assistant:"),
    "smolvlm": ("<s>{{ message['role'].capitalize() }}:<image>", "<end_of_utterance>\n", "Assistant:"),
}


def chat_template(kind: str) -> str:
    """A Jinja template that renders one message of one image and one text as the family's real checkpoints
    do.
    """
    before, after, answer = TEMPLATES[kind]
    texts = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    return (
        "{% for message in messages %}"
        + before
        + texts
        + after
        + "{% endfor %}{% if add_generation_prompt %}"
        + answer
        + "{% endif %}"
    )


def tiny_tokenizer(kind: str) -> T.PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens of `kind`; it pads on the right unless told otherwise, as many
    real tokenizers do.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *SPECIAL[kind]]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS], trainer)
    if kind in ADDS_BOS:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = T.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right"
    )
    if kind == "mllama":
        tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    return tokenizer


def _clip() -> dict[str, Any]:
    return {**_tower("clip_vision_model"), "projection_dim": 64}


def _siglip(use_head: bool = False) -> dict[str, Any]:
    return {**_tower("siglip_vision_model"), "vision_use_head": use_head}


def _tower(model_type: str) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {"model_type": model_type, **sizes, "image_size": TILE, "patch_size": PATCH}


def _text(model_type: str, tokenizer: T.PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return {
        "model_type": model_type,
        **sizes,
        **ids,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TEXT_LIMIT,
        **more,
    }


def tiny_config(kind: str) -> T.PretrainedConfig:
    """The config of a tiny member: three blocks in every stack, widths of 64 (vision) and 96 (language)."""
    tokenizer = tiny_tokenizer(kind)
    token = tokenizer.convert_tokens_to_ids
    tied = {"tie_word_embeddings": kind in TIED}
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    llama, qwen2 = _text("llama", tokenizer, **tied), _text("qwen2", tokenizer, **tied)
    if kind == "llava":
        return T.LlavaConfig(
            vision_config=_clip(),
            text_config=llama,
            image_token_index=token("<image>"),
            vision_feature_layer=-2,
        )
    if kind == "llava_siglip":
        features = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        return T.LlavaConfig(
            vision_config=_siglip(use_head=True),
            text_config=llama,
            image_token_index=token("<image>"),
            **features,
            **tied,
        )
    if kind == "llava_next":
        mistral = _text("mistral", tokenizer, sliding_window=None)
        return T.LlavaNextConfig(
            vision_config=_clip(),
            text_config=mistral,
            image_token_index=token("<image>"),
            image_grid_pinpoints=pinpoints,
        )
    if kind == "llava_onevision":
        ids = {"image_token_index": token("<image>"), "video_token_index": token("<video>")}
        return T.LlavaOnevisionConfig(
            vision_config=_siglip(), text_config=qwen2, image_grid_pinpoints=pinpoints, **ids, **tied
        )
    if kind in ("qwen2_vl", "qwen2_5_vl"):
        return _qwen_config(kind, tokenizer, tied)
    if kind == "mllama":
        return _mllama_config(tokenizer)
    ids = {"image_token_id": token("<image>"), "pad_token_id": tokenizer.pad_token_id}
    tower = {key: value for key, value in _tower("").items() if key != "model_type"}
    config_class = T.Idefics3Config if kind == "idefics3" else T.SmolVLMConfig
    return config_class(vision_config=tower, text_config=llama, scale_factor=2, **ids, **tied)


def _qwen_config(
    kind: str, tokenizer: T.PreTrainedTokenizerFast, tied: dict[str, bool]
) -> T.PretrainedConfig:
    names = {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }  # fmt: skip
    ids = {key: tokenizer.convert_tokens_to_ids(name) for key, name in names.items()}
    rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e4}
    grid = {
        "depth": 3,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if kind == "qwen2_vl":
        vision = {**grid, "embed_dim": 64, "hidden_size": 96, "mlp_ratio": 2}
        return T.Qwen2VLConfig(
            text_config=_text("qwen2_vl_text", tokenizer, rope_parameters=rope),
            vision_config=vision,
            **ids,
            **tied,
        )
    vision = {
        **grid,
        "hidden_size": 64,
        "intermediate_size": 96,
        "out_hidden_size": 96,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    return T.Qwen2_5_VLConfig(
        text_config=_text("qwen2_5_vl_text", tokenizer, rope_parameters=rope),
        vision_config=vision,
        **ids,
        **tied,
    )


def _mllama_config(tokenizer: T.PreTrainedTokenizerFast) -> T.PretrainedConfig:
    image = tokenizer.convert_tokens_to_ids(
        "<|image|>"
    )  # the first id behind the vocabulary, as in the real checkpoints
    vision = {
        "hidden_size": 64, "intermediate_size": 96, "attention_heads": 4, "num_hidden_layers": 3,
        "num_global_layers": 2,
        "intermediate_layers_indices": [0], "vision_output_dim": 2 * 64, "image_size": TILE,
        "patch_size": PATCH,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4}
    text = _text(
        "mllama_text_model", tokenizer, vocab_size=image, cross_attention_layers=[1], rope_parameters=rope
    )
    return T.MllamaConfig(vision_config=vision, text_config=text, image_token_index=image)


def tiny_model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A seeded model in evaluation mode: the same numbers every time, rounded to `dtype`; computed buffers
    stay in float32.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T.AutoModelForImageTextToText.from_config(tiny_config(kind), dtype=dtype)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(_draw(name, parameter, generator))
    return model.eval()


def _draw(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weights of variance 1 / in, norms about 1, gates about one half, small biases."""
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim >= 2:
        return noise * parameter[0].numel() ** -0.5
    if "gate" in name.rpartition(".")[2]:
        return 0.5 + 0.1 * noise
    return (1.0 if "norm" in name and name.endswith("weight") else 0.0) + 0.1 * noise


def tiny_processor(kind: str) -> Any:
    """The family's own processor class with a tiny tokenizer, 32-pixel tiles and a chat template."""
    tokenizer, template = tiny_tokenizer(kind), chat_template(kind)
    return PROCESSORS[kind](tokenizer, template)


def _llava(tokenizer: Any, template: str) -> Any:
    images = T.CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
    extra = {
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    return T.LlavaProcessor(images, tokenizer, chat_template=template, **extra)


def _llava_siglip(tokenizer: Any, template: str) -> Any:
    images = T.SiglipImageProcessor(size={"height": TILE, "width": TILE}, do_convert_rgb=True)
    return T.LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full", chat_template=template
    )


def _llava_next(tokenizer: Any, template: str) -> Any:
    size = {"size": {"shortest_edge": TILE}, "crop_size": {"height": TILE, "width": TILE}}
    images = T.LlavaNextImageProcessor(**size, image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]])
    extra = {
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    return T.LlavaNextProcessor(images, tokenizer, chat_template=template, **extra)


def _llava_onevision(tokenizer: Any, template: str) -> Any:
    images = T.LlavaOnevisionImageProcessor(
        size={"height": TILE, "width": TILE}, image_grid_pinpoints=[[32, 64], [64, 32], [64, 64]]
    )
    extra = {"num_image_tokens": (TILE // PATCH) ** 2, "vision_feature_select_strategy": "full"}
    return T.LlavaOnevisionProcessor(
        images, tokenizer, T.LlavaOnevisionVideoProcessor(), chat_template=template, **extra
    )


def _qwen(processor_class: type) -> Callable[[Any, str], Any]:
    def build(tokenizer: Any, template: str) -> Any:
        pixels = {"shortest_edge": TILE * TILE, "longest_edge": 4 * TILE * TILE}
        images = T.Qwen2VLImageProcessor(size=pixels, patch_size=PATCH, merge_size=2, temporal_patch_size=2)
        return processor_class(images, tokenizer, T.Qwen2VLVideoProcessor(), chat_template=template)

    return build


def _mllama(tokenizer: Any, template: str) -> Any:
    return T.MllamaProcessor(
        T.MllamaImageProcessor(size={"height": TILE, "width": TILE}), tokenizer, chat_template=template
    )


def _idefics3(tokenizer: Any, template: str) -> Any:
    images = T.Idefics3ImageProcessor(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE})
    return T.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


def _smolvlm(tokenizer: Any, template: str) -> Any:
    images = T.SmolVLMImageProcessor(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE})
    return T.SmolVLMProcessor(
        images, tokenizer, T.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=template
    )


PROCESSORS: dict[str, Callable[[Any, str], Any]] = {
    "llava": _llava,
    "llava_siglip": _llava_siglip,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen(T.Qwen2VLProcessor),
    "qwen2_5_vl": _qwen(T.Qwen2_5_VLProcessor),
    "mllama": _mllama,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
}


def tiny_checkpoint(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **save: Any) -> Path:
    """Model and processor as `save_pretrained` writes them (the hub's layout); `save` goes to it
    (max_shard_size="100KB"). Returns the folder.
    """
    tiny_model(kind, dtype).save_pretrained(folder, **save)
    tiny_processor(kind).save_pretrained(folder)
    return folder


def tiny_samples(count: int) -> list[Sample]:
    """Questions of growing length about seeded random images of different sizes and shapes; always the same
    ones.
    """
    rng = np.random.default_rng(0)
    questions = (
        "Is it red?",
        "What color is the square in the picture?",
        "How many circles are there? Answer yes or no, or green.",
    )
    sizes = ((48, 40), (64, 32), (30, 70))  # height, width
    samples = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        samples.append(Sample(image, questions[index % len(questions)], ("red",), f"tiny:{index + 1}"))
    return samples
