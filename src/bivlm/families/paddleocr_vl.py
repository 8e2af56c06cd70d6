"""PaddleOCR-VL: a SigLIP tower for images of any size, a projector that folds 2 x 2 patches, and ERNIE 4.5
with three-axis rotary positions.

    patches of all images in one row ─► visual.vision_model ─► projector (2 x 2 patches become one token)
        ─► language_model ─► lm_head

The patches of an image are in the order of its rows, unlike those of Qwen2-VL, and are folded in the
projector. The patches of a batch share one sequence, cut by `cu_seqlens`.

Kept in full precision: the embeddings and `lm_head`, the patch embedding (a convolution) and the position
embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.folding import of_images_in_a_row
from bivlm.families.qwen2_vl import token_grids


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """Squares of patches become tokens; the patches of an image are in the order of its rows."""
    return of_images_in_a_row(token_grids(config, inputs), config.vision_config.spatial_merge_size)


PADDLEOCR_VL = Family(
    model_type="paddleocr_vl",
    stacks=(
        Stack("vision", "model.visual.vision_model.encoder.layers"),
        Stack("projector", "model.projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.visual.vision_model.embeddings.*",
    ),
    image_token_id=lambda config: config.image_token_id,
    patch_tokens=patch_tokens,
    token_grids=token_grids,
)
