"""GLM-4.6V-Flash: the modules of GLM-4.1V; only the processor's text for videos differs.

Kept in full precision: as in GLM-4.1V.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.glm4v import GLM4V

GLM46V = Family(
    model_type="glm46v",
    stacks=GLM4V.stacks,
    full_precision=GLM4V.full_precision,
    image_token_id=lambda config: config.image_token_id,
    mixes_videos=False,
    vision_types=("glm4v_vision",),
    patch_tokens=GLM4V.patch_tokens,
    token_grids=GLM4V.token_grids,
)
