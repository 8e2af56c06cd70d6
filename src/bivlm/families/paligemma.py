"""PaliGemma: a SigLIP tower, a projector of one linear, and Gemma, which reads image and question at once.

    pixels ─► vision_tower ─► multi_modal_projector ─► visual tokens in place of <image>
        ─► language_model ─► lm_head

Image and question are a prefix within which every token sees every other; the answer is read from left to
right. `token_type_ids` tell the two apart: 0 is the prefix, 1 the answer. The processor brings no chat
template, writes the beginning-of-sequence token after the image and ends the question with a line break.

Kept in full precision: the embedding, which multiplies its rows by the square root of their width and is tied
to `lm_head`; the patch embedding (a convolution) and the position embedding.
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


PALIGEMMA = Family(
    model_type="paligemma",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("projector", "model.multi_modal_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.vision_tower.embeddings.*"),
    image_token_id=lambda config: config.image_token_id,
    prompt="{image}{question}",
    vision_types=("siglip_vision_model",),
    answer_token_type=1,
    patch_tokens=patch_tokens,
)
