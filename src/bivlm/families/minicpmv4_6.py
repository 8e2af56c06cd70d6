"""MiniCPM-V 4.6: a SigLIP tower that merges patches halfway, a merger, and Qwen3.5, most of whose blocks are
linear attention.

    image and its slices in one row ─► vision_tower.encoder.layers 0 … insert_layer_id
        ─► vision_tower.vit_merger: attention in windows of 2 x 2, which become one patch
        ─► the other layers ─► merger: 2 x 2 patches become one token, image by image
        ─► language_model ─► lm_head

The row of a batch holds the patches of all images and slices, cut by `cu_seqlens`; after the window merger it
has a quarter of them. With downsample_mode "4x" the window merger is left out.

Kept in full precision: the embeddings and `lm_head`; the patch embedding (a convolution) and the position
embedding of the tower; and in each linear attention `in_proj_a` and `in_proj_b`, which have one row per head
and set how fast the head forgets, through an exponential; its short convolution is no linear.

Tokens cannot be dropped: the blocks with linear attention have no keys and values.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

MINICPMV4_6 = Family(
    model_type="minicpmv4_6",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("vision", "model.vision_tower.vit_merger"),
        Stack("projector", "model.merger"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.language_model.layers.*.linear_attn.in_proj_a",
        "model.language_model.layers.*.linear_attn.in_proj_b",
        "model.vision_tower.embeddings.*",
    ),
    image_token_id=lambda config: config.image_token_id,
)
