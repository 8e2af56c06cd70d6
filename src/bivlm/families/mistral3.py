"""Mistral Small 3.1 and later, and Ministral 3: a Pixtral tower for images of any shape, a projector that
merges 2 x 2 patches into one token, and Mistral.

    patches of all images in one row ─► vision_tower ─► multi_modal_projector: norm,
        patch_merger, two linears ─► visual tokens in place of [IMG] ─► language_model ─► lm_head

A mask keeps the images apart. Between the rows of an image the prompt has [IMG_BREAK], at its end [IMG_END].

Kept in full precision: the embeddings and `lm_head`, and the patch embedding (a convolution).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family
from bivlm.families.folding import of_images_in_a_row
from bivlm.families.pixtral import PIXTRAL


def token_grids(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Rows and columns of each image's tokens."""
    side = config.vision_config.patch_size * config.spatial_merge_size
    return [(height // side, width // side) for height, width in inputs["image_sizes"].tolist()]


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """Squares of `spatial_merge_size` patches become one token; the patches of an image are row by row."""
    return of_images_in_a_row(token_grids(config, inputs), config.spatial_merge_size)


MISTRAL3 = Family(
    model_type="mistral3",
    stacks=PIXTRAL.stacks,
    full_precision=PIXTRAL.full_precision,
    image_token_id=lambda config: config.image_token_id,
    vision_types=PIXTRAL.vision_types,
    patch_tokens=patch_tokens,
    token_grids=token_grids,
)
