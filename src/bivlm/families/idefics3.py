"""Idefics3: a SigLIP tower for images of any shape, a connector that folds four patches into one token, and
Llama 3.

    image and its tiles ─► vision_model ─► connector: 2 x 2 (scale_factor) neighbours side by side, one linear
        ─► text_model ─► lm_head

Each tile has a name in the prompt (`<row_1_col_2>`, the whole image `<global-img>`); all tiles run through
tower and connector as one batch.

Kept in full precision: the embeddings and `lm_head`, the patch embedding (a convolution) and the position
embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.folding import of_square_tiles


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """`scale_factor` x `scale_factor` neighbours of a square tile become one token."""
    return of_square_tiles(rows, patches, config.scale_factor)


IDEFICS3 = Family(
    model_type="idefics3",
    stacks=(
        Stack("vision", "model.vision_model.encoder.layers"),
        Stack("projector", "model.connector"),
        Stack("language", "model.text_model.layers"),
    ),
    full_precision=("lm_head", "model.text_model.embed_tokens", "model.vision_model.embeddings.*"),
    image_token_id=lambda config: config.image_token_id,
    prompt="{bos}User:{image}{question}<end_of_utterance>\nAssistant:",
    patch_tokens=patch_tokens,
)
