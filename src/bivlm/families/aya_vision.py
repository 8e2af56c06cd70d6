"""Aya Vision: SigLIP on tiles, a gated projector that folds 2 x 2 patches, and Cohere's Command R7B.

    tiles ─► vision_tower ─ vision_feature_layer ─► multi_modal_projector: 2 x 2 (downsample_factor)
        neighbours side by side, norm, two linears with a gate between them
        ─► visual tokens in place of <|IMG_PATCH|> ─► language_model ─► lm_head

The image is cut into up to twelve tiles, which run through tower and projector as one batch; the whole image
is the last of them. In the prompt each tile has a name (TILE_1, …, TILE_GLOBAL). Three of four language
blocks attend within a window.

Kept in full precision: as in LLaVA-1.5.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family
from bivlm.families.folding import of_square_tiles
from bivlm.families.llava import LLAVA


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """`downsample_factor` x `downsample_factor` neighbours of a square tile become one token."""
    return of_square_tiles(rows, patches, config.downsample_factor)


AYA_VISION = Family(
    model_type="aya_vision",
    stacks=LLAVA.stacks,
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    vision_types=("siglip_vision_model",),
    patch_tokens=patch_tokens,
)
