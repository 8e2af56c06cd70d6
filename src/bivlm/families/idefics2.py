"""Idefics2: a SigLIP tower for images of any shape, a perceiver that resamples each image to 64 tokens, and
Mistral.

    images, padded to the largest ─► vision_model ─► connector: three linears with a gate, then perceiver
        blocks: a few learned queries attend to themselves and to the patches
        ─► text_model ─► lm_head

An image may be cut into four and shown whole after that; all run through tower and connector as one batch.

Kept in full precision: as in Idefics3. The queries of the perceiver are a separate parameter, no linear.

A visual token is no square of patches, so patches cannot be dropped inside the tower.
"""

from __future__ import annotations

from bivlm.families.base import Family
from bivlm.families.idefics3 import IDEFICS3

IDEFICS2 = Family(
    model_type="idefics2",
    stacks=IDEFICS3.stacks,
    full_precision=IDEFICS3.full_precision,
    image_token_id=lambda config: config.image_token_id,
    prompt=IDEFICS3.prompt,
)
