"""LLaVA-OneVision: SigLIP, a projector of two linears, and Qwen2.

The model sees the whole image and its tiles, as in LLaVA-NeXT. A grid of more features than nine tiles have
is shrunk bilinearly. The released models read the last block of a tower that was cut to 26 of SigLIP's 27
blocks.

Kept in full precision: as in LLaVA-1.5; the released towers have no pooling head.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.llava import LLAVA

LLAVA_ONEVISION = Family(
    model_type="llava_onevision",
    stacks=LLAVA.stacks,
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    prompt="<|im_start|>user {image}{question}<|im_end|><|im_start|>assistant\n",
    image_place=LLAVA.image_place,
    vision_types=LLAVA.vision_types,
)
