"""Qwen3-VL: a vision tower that hands features of inner blocks to the first language blocks ("deepstack").

    patches of all images in one row ─► visual.blocks ─► visual.merger (2 x 2 patches become one token)
        ─► language_model ─► lm_head
    after the blocks in deepstack_visual_indexes: the same patches ─► visual.deepstack_merger_list.i
        ─► added to the visual tokens after language block i

The deepstack mergers run between the vision blocks, and their sum is formed between the language blocks.

Kept in full precision: the embeddings and `lm_head`, the patch embedding (a convolution over space and time)
and the position embedding, a table that is interpolated to the image's size.

Models with experts (30B-A3B, 235B-A22B) have the same modules, with experts in place of the language blocks'
MLP; the router is no linear.

Bai et al., Qwen3-VL Technical Report, 2025; Meng et al., DeepStack, NeurIPS 2024.
"""

from __future__ import annotations

from dataclasses import replace

from bivlm.families.base import Family, Stack
from bivlm.families.qwen2_vl import QWEN2_VL

QWEN3_VL = Family(
    model_type="qwen3_vl",
    stacks=(
        Stack("vision", "model.visual.blocks"),
        Stack("projector", "model.visual.deepstack_merger_list"),
        Stack("projector", "model.visual.merger"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.visual.patch_embed.*",
        "model.visual.pos_embed",
    ),
    image_token_id=lambda config: config.image_token_id,
    patch_tokens=QWEN2_VL.patch_tokens,
    token_grids=QWEN2_VL.token_grids,
)
QWEN3_VL_MOE = replace(QWEN3_VL, model_type="qwen3_vl_moe")
