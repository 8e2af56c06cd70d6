"""Molmo 2: a vision transformer on overlapping crops, attention that pools 2 x 2 patches, and Qwen3 or OLMo.

    the whole image, small, and crops of it ─► vision_tower ─ outputs of two inner blocks side by side
        ─► multi_modal_projector.image_pooling_2d: the mean of a token's patches attends to them
        ─► multi_modal_projector.image_projector: three linears with a gate
        ─► added to the embeddings of <im_patch> ─► language_model ─► lm_head

`vision_feature_layer` counts blocks: i is the output of block i. The tokens of an image see each other in
both directions (`mm_token_type_ids` 1, with the tokens that end their rows and enclose them); an answer's
tokens are 0. The embedding has rows for additional tokens after the vocabulary; `lm_head` has none for them.

Kept in full precision: the embeddings and `lm_head`, and the patch embedding, a linear on raw pixels.

Patches and tokens do not correspond: crops overlap.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

MOLMO2 = Family(
    model_type="molmo2",
    stacks=(
        Stack("vision", "model.vision_tower.layers"),
        Stack("projector", "model.multi_modal_projector.image_pooling_2d"),
        Stack("projector", "model.multi_modal_projector.image_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.vision_tower.patch_embedding"),
    image_token_id=lambda config: config.image_token_id,
    mixes_videos=False,
)
