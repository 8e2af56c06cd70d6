"""LLaVA-1.5: a CLIP or SigLIP vision tower, a projector of two linears, and a language model with the layers
of a Llama. With a Pixtral tower the paths differ (pixtral.py).

    pixels ─► vision_tower ─ features of inner blocks ─► multi_modal_projector
        ─► visual tokens in place of <image> ─► language_model ─► lm_head

The projector reads the hidden states that `vision_feature_layer` names (one index or several; LLaVA-1.5 takes
-2, so the tower's last block has no effect). Hidden state 0 is the input of the first block and hidden
state i + 1 is the output of block i, before the tower's last norm.

Kept in full precision: the embeddings and `lm_head` (the errors of rare tokens' rows hardly average out), the
patch embedding (a convolution), the position embeddings, and SigLIP's attention-pooling head, which the model
computes and never reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack
from bivlm.families.pixtral import PIXTRAL


def selected_features(config: PretrainedConfig, count: int) -> Sequence[int]:
    """The blocks whose outputs are the hidden states named by `vision_feature_layer`; the tower's own input
    is no block's output.
    """
    layers = config.vision_feature_layer
    states = [layers] if isinstance(layers, int) else layers
    blocks = {state % (count + 1) - 1 for state in states}
    return tuple(sorted(blocks - {-1}))


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """A token per patch; the "default" strategy leaves out the tower's first one (CLIP's class token)."""
    left_out = 1 if config.vision_feature_select_strategy == "default" else 0
    return torch.arange(-left_out, patches - left_out).expand(rows, patches)


LLAVA = Family(
    model_type="llava",
    stacks=(
        Stack("vision", "model.vision_tower.encoder.layers"),
        Stack("projector", "model.multi_modal_projector"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=(
        "lm_head",
        "model.language_model.embed_tokens",
        "model.vision_tower.embeddings.*",
        "model.vision_tower.head.*",
    ),
    image_token_id=lambda config: config.image_token_id,
    prompt="USER: {image}{question} ASSISTANT:",
    image_place="{image}\n",
    vision_types=("clip_vision_model", "siglip_vision_model"),
    variants=(PIXTRAL,),
    patch_tokens=patch_tokens,
    tower_outputs=selected_features,
)
