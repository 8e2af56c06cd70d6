"""Ovis 2: a vision transformer whose features become words of a visual vocabulary, and Qwen2.

    tiles ─► vision_tower.transformer ─ 2 x 2 (hidden_stride) neighbours side by side
        ─► vision_tower.head_linear ─► norm, softmax: how likely each visual word is
        ─► the mean of the visual words' embeddings (visual_embeddings_table) ─► language_model ─► lm_head

A cut image shows the whole image first; tokens in the prompt tell where image, row and column begin, and get
the last embeddings of the visual table. `head_linear` is a lone linear and is quantized.

Kept in full precision: the embeddings and `lm_head`, the visual table (an embedding that is multiplied, not
looked up), the patch embedding (a convolution) and the position embedding.

Patches cannot be dropped inside the tower: it folds squares of neighbours before `head_linear`.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

OVIS2 = Family(
    model_type="ovis2",
    stacks=(
        Stack("vision", "model.vision_tower.transformer.encoder.layers"),
        Stack("projector", "model.vision_tower.head_linear"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.visual_embeddings_table",
        "model.vision_tower.transformer.embeddings.*",
    ),
    image_token_id=lambda config: config.image_token_id,
)
