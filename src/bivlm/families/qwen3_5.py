"""Qwen3.5 and Qwen3.6: the vision tower of Qwen3-VL without deepstack, and a language model
in which three of four blocks have a linear attention (a gated delta rule) in place of attention.

    patches of all images in one row ─► visual.blocks ─► visual.merger (2 x 2 patches become one token)
        ─► language_model: linear_attn, linear_attn, linear_attn, self_attn, … ─► lm_head

Kept in full precision: the embeddings and `lm_head`; the patch embedding and the position embedding; and in
each linear attention `in_proj_a` and `in_proj_b`, which have one row per head and set
how fast the head forgets, through an exponential; its convolution is no linear. The checkpoint's block for
predicting several tokens (`mtp`) is not a part of the model that transformers builds.

Models with experts (35B-A3B and larger) have the same modules, with experts and a shared one in place of the
MLP. The router is no linear; `shared_expert_gate`, one row, stays as well.
"""

from __future__ import annotations

from dataclasses import replace

from bivlm.families.base import Family, Stack
from bivlm.families.qwen2_vl import QWEN2_VL

QWEN3_5 = Family(
    model_type="qwen3_5",
    stacks=(
        Stack("vision", "model.visual.blocks"),
        Stack("projector", "model.visual.merger"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.language_model.layers.*.linear_attn.in_proj_a",
        "model.language_model.layers.*.linear_attn.in_proj_b",
        "model.visual.patch_embed.*",
        "model.visual.pos_embed",
    ),
    image_token_id=lambda config: config.image_token_id,
    patch_tokens=QWEN2_VL.patch_tokens,
    token_grids=QWEN2_VL.token_grids,
)
QWEN3_5_MOE = replace(QWEN3_5, model_type="qwen3_5_moe")
