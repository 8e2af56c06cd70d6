"""SmolVLM and SmolVLM2: Idefics3 with small towers, SmolLM2 as the language model, and more patches folded
into a token (scale_factor 3 or 4).

The modules have the same names as in Idefics3. The processor also handles videos and needs the packages
`num2words` and `torchvision`.

Kept in full precision: as in Idefics3. The embedding is tied to `lm_head` in the small models and is a large
part of them.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.idefics3 import IDEFICS3

SMOLVLM = Family(
    model_type="smolvlm",
    stacks=IDEFICS3.stacks,
    full_precision=IDEFICS3.full_precision,
    image_token_id=lambda config: config.image_token_id,
    mixes_videos=False,
    prompt=IDEFICS3.prompt,
    patch_tokens=IDEFICS3.patch_tokens,
)
