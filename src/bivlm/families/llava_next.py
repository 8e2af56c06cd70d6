"""LLaVA-NeXT (LLaVA-1.6): LLaVA-1.5 on tiles.

The model sees the whole image and up to four tiles of the tower's size. The tiles' features are arranged like
the tiles in the image, the padding is cut off, and a learned vector ends each row. All tiles run through the
tower and the projector as one batch, so every block is called once.

Kept in full precision: as in LLaVA-1.5. The row-end vector is a separate parameter, no linear.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.llava import LLAVA

LLAVA_NEXT = Family(
    model_type="llava_next",
    stacks=LLAVA.stacks,
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    prompt="[INST] {image}{question} [/INST]",
    image_place=LLAVA.image_place,
    vision_types=LLAVA.vision_types,
)
