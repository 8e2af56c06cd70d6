"""LightOnOCR: Pixtral's tower for images of any size, a projector that merges 2 x 2 patches, and Qwen3.

    patches of all images in one row ─► vision_encoder.transformer
        ─► vision_projection: norm, one linear that merges 2 x 2 (spatial_merge_size) patches, two linears
        ─► language_model ─► lm_head

The patches of an image are in the order of its rows; a mask keeps the images of a batch apart.

Kept in full precision: the embeddings and `lm_head`, and the patch embedding, a convolution.
"""

from __future__ import annotations

from bivlm.families.base import Family, Stack
from bivlm.families.mistral3 import MISTRAL3

LIGHTON_OCR = Family(
    model_type="lighton_ocr",
    stacks=(
        Stack("vision", "model.vision_encoder.transformer.layers"),
        Stack("projector", "model.vision_projection"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.vision_encoder.patch_conv"),
    image_token_id=lambda config: config.image_token_id,
    vision_types=("pixtral",),
    patch_tokens=MISTRAL3.patch_tokens,
    token_grids=MISTRAL3.token_grids,
)
