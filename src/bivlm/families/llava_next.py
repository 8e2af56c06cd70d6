"""LLaVA-NeXT (LLaVA-1.6): LLaVA-1.5 on tiles.

The image is seen whole and in up to four tiles of the tower's size; the tiles' features are laid out as the
picture is, the padding is cut off, and a learned vector ends each row. All tiles run through the tower and
the projector as one batch, so that every block is called once.

Kept in full precision: as in LLaVA-1.5. The row-end vector is a parameter of its own, no linear.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.llava import LLAVA

LLAVA_NEXT = Family(
    model_type="llava_next",
    stacks=LLAVA.stacks,
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    prompt="[INST] {image}\n{question} [/INST]",
    vision_types=LLAVA.vision_types,
)
