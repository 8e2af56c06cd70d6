"""Gemma 3: a SigLIP tower, a projector that is one matrix, and a language model with sliding windows in most
blocks.

    pixels ─► vision_tower ─► multi_modal_projector: means of neighbouring patches, norm, one matrix
        ─► visual tokens in place of <image_soft_token> ─► language_model ─► lm_head

The tokens of an image see each other; the text is read from left to right. `token_type_ids` tell the two
apart: 1 is an image, 0 is text.

Kept in full precision: the embedding, which multiplies its rows by the square root of their width and is tied
to `lm_head`; the patch embedding (a convolution) and the position embedding. The projector's matrix is a bare
parameter, no linear, so it stays as well.

Gemma Team, Gemma 3 Technical Report, 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.folding import of_square_tiles


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """The patches of a square become one token, their mean."""
    return of_square_tiles(rows, patches, isqrt(patches) // isqrt(config.mm_tokens_per_image))


GEMMA3 = Family(
    model_type="gemma3",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.vision_tower.embeddings.*"),
    image_token_id=lambda config: config.image_token_id,
    vision_types=("siglip_vision_model",),
    patch_tokens=patch_tokens,
)
