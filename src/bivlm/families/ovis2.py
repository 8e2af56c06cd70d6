"""Ovis 2: a vision transformer whose features become words of a visual vocabulary, and Qwen2.

    tiles ─► vision_tower.transformer ─ 2 x 2 (hidden_stride) neighbours side by side
        ─► vision_tower.head_linear ─► norm, softmax: how likely each visual word is
        ─► the mean of the visual words' embeddings (visual_embeddings_table) ─► language_model ─► lm_head

A cut image shows the whole image first; tokens in the prompt tell where image, row and column begin, and get
the last embeddings of the visual table. `head_linear` is a lone linear and is quantized.

Kept in full precision: the embeddings and `lm_head`, the visual table (an embedding that is multiplied, not
looked up), the patch embedding (a convolution) and the position embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.folding import of_square_tiles


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """`hidden_stride` x `hidden_stride` neighbours of a square tile become one token."""
    return of_square_tiles(rows, patches, config.vision_config.hidden_stride)


OVIS2 = Family(
    model_type="ovis2",
    stacks=(
        Stack("vision", "model.vision_tower.transformer.encoder.layers"),
        Stack("projector", "model.vision_tower.head_linear"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.visual_embeddings_table",
        "model.vision_tower.transformer.embeddings.*",
    ),
    image_token_id=lambda config: config.image_token_id,
    patch_tokens=patch_tokens,
)
