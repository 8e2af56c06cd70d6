"""Qwen2-VL: a vision tower that takes images of any size, a merger, and Qwen2 with three-axis rotary
positions.

    patches of all images in one row ─► visual.blocks ─► visual.merger (2 x 2 patches become one token)
        ─► language_model ─► lm_head

The patches of a batch share one sequence, cut by `cu_seqlens`; query, key and value of a vision block are one
linear, `attn.qkv`.

Kept in full precision: the embeddings and `lm_head`, and the patch embedding, a convolution over space and
time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bivlm.families.base import Family, Stack


def patch_tokens(config: PretrainedConfig, inputs: Mapping[str, Tensor], rows: int, patches: int) -> Tensor:
    """The patches of a token are consecutive."""
    return (torch.arange(patches) // config.vision_config.spatial_merge_size**2)[None]


def token_grids(config: PretrainedConfig, inputs: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Rows and columns of each image's tokens; the frames of a sequence are stacked vertically."""
    fold = config.vision_config.spatial_merge_size
    return [
        (frames * height // fold, width // fold)
        for frames, height, width in inputs["image_grid_thw"].tolist()
    ]


QWEN2_VL = Family(
    model_type="qwen2_vl",
    stacks=(
        Stack("vision", "model.visual.blocks"),
        Stack("projector", "model.visual.merger"),
        Stack("language", "model.language_model.layers"),
    ),
    full_precision=("lm_head", "model.language_model.embed_tokens", "model.visual.patch_embed.*"),
    image_token_id=lambda config: config.image_token_id,
    prompt=(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"
    ),
    image_place="<|vision_start|>{image}<|vision_end|>",
    patch_tokens=patch_tokens,
    token_grids=token_grids,
)
