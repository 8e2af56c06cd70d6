"""Idefics3: a SigLIP tower for images of any shape, a connector that folds four patches into one token, and Llama 3.

    image and its tiles ─► vision_model ─► connector: 2 x 2 (scale_factor) neighbours side by side, one linear ─► text_model ─► lm_head

Each tile has a name in the prompt (`<row_1_col_2>`, the whole image `<global-img>`); all tiles run through tower and connector as one batch.

Kept in full precision: the embeddings and `lm_head`, the patch embedding (a convolution) and the position embedding.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack

IDEFICS3 = Family(
    model_type="idefics3",
    stacks=(
        Stack("vision", "model.vision_model.encoder.layers"),
        Stack("projector", "model.connector"),
        Stack("language", "model.text_model.layers"),
    ),
    keep=("lm_head", "model.text_model.embed_tokens", "model.vision_model.embeddings.*"),
    image_token_id=lambda config: config.image_token_id,
    prompt="{bos}User:{image}{question}<end_of_utterance>\nAssistant:",
)
