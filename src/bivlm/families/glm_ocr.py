"""GLM-OCR: GLM-4.1V in small, for documents, without a table of positions in the vision tower.

    patches of all images in one row ─► visual.blocks ─► visual.downsample (a convolution) ─► visual.merger
        ─► language_model ─► lm_head

Kept in full precision: the embeddings and `lm_head`, the patch embedding and `downsample` (convolutions). The
checkpoint's block for predicting several tokens (the one after the last) is not a part of the model that
transformers builds.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.glm4v import GLM4V

GLM_OCR = Family(
    model_type="glm_ocr",
    stacks=GLM4V.stacks,
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.visual.patch_embed.*",
        "model.visual.downsample",
    ),
    image_token_id=lambda config: config.image_token_id,
    mixes_videos=False,
    patch_tokens=GLM4V.patch_tokens,
    token_grids=GLM4V.token_grids,
)
