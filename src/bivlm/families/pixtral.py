"""Pixtral-12B, which transformers builds as a LLaVA: a tower for images of any shape, a projector of two
linears, and Mistral NeMo.

    patches of all images in one row ─► vision_tower ─► multi_modal_projector (a token per patch)
        ─► visual tokens in place of [IMG] ─► language_model ─► lm_head

A mask keeps the images apart. Between the rows of an image the prompt has [IMG_BREAK], at its end [IMG_END].

Kept in full precision: the embeddings and `lm_head`, and the patch embedding (a convolution).

Agrawal et al., Pixtral 12B, 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """A token per patch."""
    return torch.arange(patches).expand(rows, patches)


def token_grids(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Rows and columns of each image's tokens."""
    side = config.vision_config.patch_size
    return [(height // side, width // side) for height, width in inputs["image_sizes"].tolist()]


PIXTRAL = Family(
    model_type="llava",
    stacks=(
        Stack("vision", "model.vision_tower.transformer.layers"),
        Stack("projector", "model.multi_modal_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.vision_tower.patch_conv"),
    image_token_id=lambda config: config.image_token_id,
    vision_types=("pixtral",),
    patch_tokens=patch_tokens,
    token_grids=token_grids,
)
