"""Gemma 4 without a vision tower (12B): pixels become tokens by two linears.

    patches of 48 x 48 pixels ─► embed_vision: norm, patch_dense, norm, position, norm
        ─► embed_vision.multimodal_embedder (one linear) ─► visual tokens in place of <|image|>
        ─► language_model ─► lm_head

`multimodal_embedder` is declared as the vision part: there is no other.

Kept in full precision: as in Gemma 4; `patch_dense` is the patch embedding. Raw audio goes through one
linear, `embed_audio`, which stays as well.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack


def token_grids(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Rows and columns of each image's tokens, from the places of its patches; padding is at (-1, -1)."""
    return [(row + 1, column + 1) for column, row in inputs["image_position_ids"].amax(1).tolist()]


GEMMA4_UNIFIED = Family(
    model_type="gemma4_unified",
    stacks=(
        Stack("vision", "model.embed_vision.multimodal_embedder"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.embed_vision.patch_dense",
        "model.embed_audio.*",
    ),
    image_token_id=lambda config: config.image_token_id,
    token_grids=token_grids,
)
