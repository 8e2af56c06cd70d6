"""InternVL 3 and 3.5 in the form that transformers knows (the folders "-hf" and "-HF"): a ViT on tiles, a
connector that folds four patches into one token, and Qwen2, Qwen3 or Llama.

    image and its tiles ─► vision_tower ─► 2 x 2 neighbours side by side ─► multi_modal_projector
        ─► visual tokens in place of <IMG_CONTEXT> ─► language_model ─► lm_head

All tiles run through tower and projector as one batch. The tower's first token is a class token, which the
model leaves out.

Kept in full precision: the embeddings and `lm_head`, and the patch embedding (a convolution).

Zhu et al., InternVL3, 2025.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.folding import of_square_tiles


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """Neighbours in a square become one token; "default" leaves out the tower's first one, the class
    token.
    """
    left_out = 1 if config.vision_feature_select_strategy == "default" else 0
    return of_square_tiles(rows, patches, round(1 / config.downsample_ratio), left_out)


INTERNVL = Family(
    model_type="internvl",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layer"),
        Stack("projector", "model.multi_modal_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.vision_tower.embeddings.*"),
    image_token_id=lambda config: config.image_token_id,
    vision_types=("internvl_vision",),
    patch_tokens=patch_tokens,
)
