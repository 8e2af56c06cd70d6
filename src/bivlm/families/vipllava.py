"""ViP-LLaVA: LLaVA-1.5 with a projector that reads several inner blocks of CLIP.

    pixels ─► vision_tower ─ hidden states named by vision_feature_layer, without the class token, side by
        side ─► multi_modal_projector: norm, two linears ─► language_model ─► lm_head

Kept in full precision: as in LLaVA-1.5.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family
from bivlm.families.llava import LLAVA, selected_features


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """A token per patch; the first patch is the class token, which becomes none."""
    return torch.arange(-1, patches - 1).expand(rows, patches)


VIPLLAVA = Family(
    model_type="vipllava",
    stacks=LLAVA.stacks,
    full_precision=LLAVA.full_precision,
    image_token_id=lambda config: config.image_token_id,
    prompt=(
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives"
        " helpful, detailed, and polite answers to the human's questions.###Human:"
        " {image}\n{question}###Assistant:"
    ),
    vision_types=("clip_vision_model",),
    patch_tokens=patch_tokens,
    tower_outputs=selected_features,
)
