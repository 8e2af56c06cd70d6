"""Command A Vision: the modules of Aya Vision, without the projector's norm, on the output of the whole
tower.

The image is cut into up to twelve tiles of 512 pixels, the whole image is the last of them; a token for a
line break ends each tile in the prompt.

Kept in full precision: as in LLaVA-1.5.
"""

from __future__ import annotations

from bivlm.families.aya_vision import AYA_VISION
from bivlm.families.base import Family, Stack

COHERE2_VISION = Family(
    model_type="cohere2_vision",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("projector", "model.multi_modal_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=AYA_VISION.full_precision,
    image_token_id=lambda config: config.image_token_id,
    vision_types=AYA_VISION.vision_types,
    patch_tokens=AYA_VISION.patch_tokens,
)
