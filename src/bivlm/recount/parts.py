"""Which part of a model a stored tensor belongs to, told by its name.

Names are those of Hugging Face checkpoints (of today's transformers, of older layouts, of the models' own
code) and of GGUF files. The first pattern that is found decides. What no pattern knows is "other": an audio
tower, a speech decoder, a layout that nobody described here.
"""

from __future__ import annotations

import re

PARTS = ("vision", "projector", "language", "embedding", "head", "other")


def _whole(*names: str) -> re.Pattern[str]:
    """Whole steps of a path: "visual" finds model.visual.blocks, not visual_embeddings."""
    return re.compile(rf"(?:^|\.)(?:{'|'.join(names)})(?=\.|$)")


TABLE: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "other",
        _whole(
            *("audio_tower", "audio_model", "audio_encoder", "embed_audio", "audio_projector", "audio_embed"),
            *("audio_projection_layer", "audio_avg_pooler", "audio_adapter", "apm", "speech_.*", "sound_.*"),
            *("talker", "code2wav", "token2wav", "tts"),
        ),
    ),
    ("vision", _whole(r"embed_vision\.multimodal_embedder", "vit_merger")),
    (
        "projector",
        _whole(
            *("multi_modal_projector", "mm_projector", "mm_input_projection", "vision_projection"),
            *("modality_projection", "connector", "aligner", "mlp1", "mlp_AR", "resampler", "qformer"),
            *("perceiver_resampler", "layerwise_projectors", "spatial_projectors", "projector"),
            *("language_projection", "query_tokens", "vision_language_adapter", "patch_merger"),
            *("image_projector", "image_pooling_2d", "image_projection", "img_projection.*"),
            *("visual_projection", "image_newline", "view_seperator", "vte", "visual_embeddings_table"),
            *("deepstack_merger_list", r"visual\.merger.*", r"model\.merger", r"vit\.perceive"),
            *(r"embed_vision\.embedding_projection", r"vision_tower\.head_linear", r"visual_tokenizer\.head"),
            *(r"vision\.linear_proj", r"visual\.attn_pool", r"visual\.proj", "glb_GN", "sub_GN"),
        ),
    ),
    (
        "vision",
        _whole(
            *("vision_tower.*", "vision_model", "vision_encoder", "visual", "vision", "vit", "vpm"),
            *("vision_backbone", "image_vit", "image_encoder", "img_processor", "vision_embed_tokens"),
            *("visual_tokenizer", "visual_model", "embed_vision", "sam_model", "qwen2_model", "image_tower"),
        ),
    ),
    ("head", _whole("lm_head", "embed_out", "output_layer", r"transformer\.ff_out")),
    ("head", re.compile(r"^(?:language_model\.|llm\.|model\.)?output(?=\.|$)")),
    (
        "embedding",
        _whole(
            *("embed_tokens", "embed_tokens_per_layer", "tok_embeddings", "wte", "wpe", "embed_in"),
            *("word_embeddings", "embed_positions", r"model\.embedding"),
        ),
    ),
    ("language", _whole("language_model", "text_model", "llm", "language", "mtp")),
    (
        "language",
        re.compile(
            r"^(?:(?:model|transformer|decoder|backbone|gpt_neox|encoder)\.)*"
            r"(?:(?:layers|h|blocks|block)\.\d+|norm|final_layernorm|final_layer_norm|ln_f|norm_f|rotary_emb)"
            r"(?=\.|$)"
        ),
    ),
)

# names of ggml-org/llama.cpp: gguf-py/gguf/constants.py (TENSOR_NAMES), tools/mtmd/clip-impl.h
GGUF_TABLE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("other", re.compile(r"^(?:a|mm\.a)\.")),
    ("projector", re.compile(r"^(?:mm|resampler|v\.deepstack|v\.image_newline|v\.view_seperator)(?=\.|$)")),
    ("projector", re.compile(r"^(?:model\.image_newline|v\.merger|qformer|adapter)(?=\.|$)")),
    ("vision", re.compile(r"^(?:v|vision)\.")),
    ("embedding", re.compile(r"^(?:token_embd|token_types|position_embd|per_layer_token_embd)(?=\.|$)")),
    ("head", re.compile(r"^output(?=\.|$)")),
    ("language", re.compile(r"^(?:blk\.\d+|enc\.blk\.\d+|dec\.blk\.\d+|enc|dec|nextn)\.")),
    ("language", re.compile(r"^(?:output_norm|token_embd_norm|rope_|per_layer_|altup_|output_)")),
)


def part_of(name: str, *, gguf: bool = False) -> str:
    """One of PARTS for the name of a module or of a stored tensor."""
    for part, pattern in GGUF_TABLE if gguf else TABLE:
        if pattern.search(name):
            return part
    return "other"
