"""Gemma 4 with a vision tower (E2B, E4B, 26B-A4B, 31B): patches of any grid, pooled, and a language
model with sliding windows in most blocks.

    patches ─► vision_tower: patch_embedder ─► encoder.layers ─► pooler, means of 3 x 3 patches
        ─► embed_vision (one linear) ─► visual tokens in place of <|image|> ─► language_model ─► lm_head
    E2B, E4B: token ids ─► embed_tokens_per_layer, plus per_layer_model_projection of the embeddings
        ─► one small vector per token and block, which gates the block's output

In E2B and E4B the last blocks have no keys and values of their own: they read those of an earlier block.

Kept in full precision: the embedding, tied to `lm_head`, and the embedding per layer, unless a recipe packs
them (both multiply their rows by the square root of their width); `per_layer_model_projection`, whose one
product serves all blocks; the patch embedding, a linear on raw pixels; and the audio tower with its
projection, since nothing here asks it.

26B-A4B has experts next to the dense part of a block; `router.proj` stays in full precision.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack


def token_grids(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Rows and columns of each image's tokens, from the places of its patches; padding is at (-1, -1)."""
    fold = config.vision_config.pooling_kernel_size
    return [
        ((row + 1) // fold, (column + 1) // fold)
        for column, row in inputs["image_position_ids"].amax(1).tolist()
    ]


GEMMA4 = Family(
    model_type="gemma4",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("projector", "model.embed_vision"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.language_model.embed_tokens_per_layer",
        "model.language_model.per_layer_model_projection",
        "model.vision_tower.patch_embedder.input_proj",
        "model.audio_tower.*",
        "model.embed_audio.*",
    ),
    image_token_id=lambda config: config.image_token_id,
    token_grids=token_grids,
)
